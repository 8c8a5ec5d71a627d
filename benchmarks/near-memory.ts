/**
 * How much memory does a near cache take beside a cache in each thread, does it matter which thread has filled it, and does it
 * stay as large and as good when it is filled again and again? Each contender has its own process.
 */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startRedis } from "../test/support/redis-server.js";
import type { NearMemoryFigures, NearMemoryInput } from "./near-memory/child.js";
import type { FillFigures, FillsInput } from "./near-memory/fills.js";
import { benchmark, isSmoke } from "./support/benchmark.js";
import type { Row, Sample } from "./support/interleave.js";

const MB = 2 ** 20;
const CHARACTERS = 4_096;
const KEYS = isSmoke ? 2_000 : 80_000;
const THREADS = isSmoke ? 2 : 8;
const PAYLOAD = KEYS * CHARACTERS;
/** A record has a header, two threads may fill the same key at the same time, and each thread fills a segment of its own. */
const MAX_BYTES = Math.ceil(1.17 * PAYLOAD) + 2 * (THREADS + 1) * MB;
const FILLS: FillsInput = isSmoke
  ? { fills: 20_000, keys: 20_000, maxBytes: 4 * MB }
  : { fills: 24_000_000, keys: 1_000_000, maxBytes: 16 * MB };
/**
 * Node 24 lets the young generation of each thread grow to 192 MB. How far it grows depends on how fast values are read and on
 * how long it goes on, and it is not part of a cache. It has Node 20's limit here, in all threads of the process.
 */
const SEMI_SPACE_MB = 16;
const READ = `${THREADS} threads read ${KEYS.toLocaleString("en-US").replaceAll(",", " ")} keys`;
const FILLED = `${(FILLS.fills / 1e6).toLocaleString("en-US")} million fills`;
const PLAIN = "plain GET";

interface Contender {
  readonly name: string;
  readonly part: string;
  readonly measure: () => Promise<Sample>;
}

async function child<Figures>(script: string, input: object): Promise<Figures> {
  const file = fileURLToPath(new URL(`./near-memory/${script}`, import.meta.url));
  const flags = ["--expose-gc", `--max-semi-space-size=${SEMI_SPACE_MB}`];
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, file, JSON.stringify(input)]);
  return JSON.parse(stdout) as Figures;
}

function reading(name: string, way: NearMemoryInput["way"], fillers: number): Contender {
  return {
    name,
    part: READ,
    async measure() {
      const input: NearMemoryInput = {
        port: server.port,
        threads: THREADS,
        keys: KEYS,
        maxBytes: MAX_BYTES,
        way,
        fillers,
      };
      const { rss, hitShare } = await child<NearMemoryFigures>("child.js", input);
      return { rssMb: rss / MB, ...(hitShare !== undefined && { hits: 100 * hitShare }) };
    },
  };
}

async function filling(): Promise<Sample> {
  const { rssBefore, rss, hitShare, fifoShare } = await child<FillFigures>("fills.js", FILLS);
  return { rssMb: rss / MB, grownMb: (rss - rssBefore) / MB, hits: 100 * hitShare, fifoHits: 100 * fifoShare };
}

/** What each contender takes above the same threads without a cache. */
function withPayloads(rows: readonly Row[]): Row[] {
  const plain = rows.find(({ contender }) => contender === PLAIN)?.metrics["rssMb"]?.median;
  return rows.map((row) => {
    const own = row.metrics["rssMb"]!.median;
    if (plain === undefined || row.contender === PLAIN || row.point["part"] !== READ) return row;
    const payloads = ((own - plain) * MB) / PAYLOAD;
    return {
      ...row,
      metrics: { ...row.metrics, payloads: { median: payloads, min: payloads, max: payloads, rounds: 1 } },
    };
  });
}

await using server = await startRedis();
for (let first = 0; first < KEYS; first += 1_000) {
  const sets = server.admin.pipeline();
  // Latin-1: what the server has is UTF-8, what is kept is one byte a character.
  for (let key = first; key < first + 1_000; key++) sets.set(`near:${key}`, `é${key}`.padEnd(CHARACTERS, "."));
  await sets.exec();
}

await benchmark({
  question: "memory of a process whose threads read the same keys, and hits of what is kept",
  columns: {
    rssMb: "RSS MB",
    payloads: "above plain GET, in payloads",
    hits: "hits %",
    fifoHits: "FIFO's hits %",
    grownMb: "grown MB",
  },
  points: [{ part: READ }, { part: FILLED }],
  contenders: [
    reading(PLAIN, "GET", THREADS),
    reading("near cache", "near", THREADS),
    reading("near cache, filled by one thread", "near", 1),
    reading("a Map in each thread", "Map", THREADS),
    { name: "near cache, no Redis", part: FILLED, measure: filling },
  ].map((one) => ({ ...one, takesPart: ({ part }: { part: string }) => part === one.part })),
  rounds: ({ part }) => (part === READ && !isSmoke ? 3 : 1), // two processes differ by 20 MB: V8 grows its heaps as it likes
  measure: ({ measure }) => measure(),
  derive: withPayloads,
  notes: [
    `payload: ${KEYS} values of ${CHARACTERS} Latin-1 characters; nearCache.ownTableBytes has its default; garbage was collected before RSS was read`,
    "hits: of peek() for random keys in all threads, after the fill",
    `fills: a Zipf 0.9 trace of ${FILLS.keys} keys with values of 64 to 1 024 bytes, which is read and filled in memory alone; grown: from 1/24 of the fills to the last; FIFO: a queue with room for the same bytes of keys and values`,
  ],
  chart: {
    title: "Resident memory of a process whose threads read the same keys",
    yTitle: "MB",
    panels: [{ title: READ, x: "part", metric: "rssMb", where: ({ part }) => part === READ }],
  },
});
