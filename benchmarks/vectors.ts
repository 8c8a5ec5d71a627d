/** How many nearest-neighbour queries per second does each precision give, at which recall, over 1 and 2 threads? */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ConnectionManager } from "../src/index.js";
import { startRedis } from "../test/support/redis-server.js";
import { silent } from "../test/support/silent.js";
import { Progress } from "../workers/demo/progress.js";
import { sampleRows } from "../workers/demo/queries.js";
import { recall } from "../workers/demo/recall.js";
import { VectorFile, VectorFileWriter } from "../workers/demo/vector-file.js";
import { eachOf, STRATEGIES, type VectorManager, VectorStore } from "../workers/demo/vector-store.js";
import { openVectors } from "../workers/demo/vectors-source.js";
import { QUANTIZERS } from "../workers/quantize.js";
import type { Hits } from "../workers/top-k.js";
import { benchmark, isSmoke } from "./support/benchmark.js";

const NEIGHBOURS = 10;
const PREFIX = "bench:vectors:";
const WORDS = isSmoke ? 1_000 : 5_000;
const signal = new AbortController().signal;

/** Random vectors for smoke runs: the real ones are a download of 118 MB. */
async function noise(dimensions: number): Promise<VectorFile> {
  const folder = await mkdtemp(join(tmpdir(), "redthread-noise-"));
  const path = join(folder, "noise.vectors");
  const writer = await VectorFileWriter.create(path);
  writer.begin(
    Array.from({ length: WORDS }, (_, word) => `w${word}`),
    dimensions,
  );
  for (let word = 0; word < WORDS; word++) writer.vector(word, Float32Array.from({ length: dimensions }, gauss));
  await writer.finish();
  const file = await VectorFile.open(path);
  await rm(folder, { recursive: true, force: true }); // an open file stays readable
  return file!;
}

function gauss(): number {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

// The demo's vectors, fetched once.
const folder = fileURLToPath(new URL("../../.cache/vectors", import.meta.url));
await using vectors = isSmoke
  ? await noise(100)
  : await openVectors({ folder, progress: new Progress(process.stderr), env: process.env, signal });
await using server = await startRedis();
await using one = manage(1);
await using two = manage(2);
const stores = [one, two].map((manager) => new VectorStore({ manager, prefix: PREFIX, vectors, words: WORDS, signal }));
const [store] = stores;
for (const strategy of STRATEGIES) await store!.store(strategy, () => undefined);
const rows = sampleRows(WORDS);
const exact = await store!.nearestExactly(rows, NEIGHBOURS, () => undefined);

function manage(threads: number): VectorManager {
  return new ConnectionManager<typeof import("../workers/vector-tasks.js")>({
    tasks: new URL("../workers/vector-tasks.js", import.meta.url),
    env: {},
    logger: silent,
    redis: { port: server.port },
    threads: { count: threads },
  });
}

await benchmark({
  question: `the 10 nearest of ${WORDS} word vectors of ${vectors.dimensions} dimensions, 8 queries at once`,
  columns: { queriesPerSecond: "queries/s", recallAt10: "recall@10", bytesPerVector: "bytes" },
  reference: "float32",
  points: [1, 2].map((threads) => ({ threads })),
  contenders: STRATEGIES.map((name) => ({ name })),
  rounds: isSmoke ? 1 : 5,
  warmUps: 1, // it fills the threads' caches with the blocks
  async measure({ name }, { threads }) {
    const searched = stores[threads - 1]!;
    const startedAt = performance.now();
    const found: Hits[] = await eachOf(rows, (row) => searched.nearest(name, row, NEIGHBOURS));
    const seconds = (performance.now() - startedAt) / 1_000;
    return {
      queriesPerSecond: rows.length / seconds,
      recallAt10: recall(found, exact),
      bytesPerVector: QUANTIZERS[name].bytesPerVector(vectors.dimensions),
    };
  },
  notes: [
    "recall@10: share of the neighbours that float32 in double precision finds; sign ranks its candidates by int8",
  ],
  chart: {
    title: `Nearest neighbours among ${WORDS} word vectors`,
    yTitle: "queries per second",
    xTitle: "threads",
    panels: [
      { title: "queries per second", x: "threads", metric: "queriesPerSecond" },
      { title: "recall@10", x: "threads", metric: "recallAt10", yTitle: "share" },
    ],
  },
});
