/** What does a thread take, and a connection, beside piscina and ioredis? Each contender in a process of its own. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startRedis } from "../test/support/redis-server.js";
import type { MemoryInput } from "./memory/child.js";
import { type Build, buildsOf } from "./support/build.js";
import { interleave, type Named, type Row } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { summarize } from "./support/statistics.js";

interface MemoryPoint extends Record<string, string | number> {
  readonly threads: number;
  readonly connections: number;
}

interface Candidate extends Named<MemoryPoint> {
  readonly contender: MemoryInput["contender"];
  readonly build: Build;
}

const MB = 2 ** 20;
const options = parseBenchOptions();
const { isSmoke } = options;
/** One process' memory differs from the next one's by 2 %. */
const ROUNDS = 1;
const THREADS = isSmoke ? [1, 2] : [8, 16, 32];
const CONNECTIONS = isSmoke ? [1, 2] : [50, 250];
const [today, ...others] = buildsOf(options);
const contenders: readonly Candidate[] = [
  ...[today, ...others].map((build): Candidate => ({ ...build.named("redthread"), contender: "redthread", build })),
  { name: "by hand", contender: "by hand", build: today },
];
const points = [
  ...THREADS.map((threads): MemoryPoint => ({ threads, connections: 0 })),
  ...CONNECTIONS.map((connections): MemoryPoint => ({ threads: 1, connections })),
];

await using server = await startRedis();

async function rssMb({ contender, build }: Candidate, { threads, connections }: MemoryPoint): Promise<number> {
  const child = fileURLToPath(build.script("memory/child.js"));
  const input: MemoryInput = { port: server.port, contender, threads, connections };
  const { stdout } = await promisify(execFile)(process.execPath, ["--expose-gc", child, JSON.stringify(input)]);
  return Number(stdout) / MB;
}

/** What one more takes: the difference between the largest and the smallest, divided. */
function each(rows: readonly Row<MemoryPoint>[], what: "threads" | "connections", among: readonly number[]): Row[] {
  const [least, most] = [among[0]!, among.at(-1)!];
  return contenders.flatMap(({ name }) => {
    const at = (count: number) =>
      rows.find(({ point, contender }) => contender === name && point[what] === count && isAbout(point, what));
    const [small, large] = [at(least)?.metrics["rssMb"], at(most)?.metrics["rssMb"]];
    if (!small || !large) return [];
    const kb = (1_024 * (large.median - small.median)) / (most - least);
    return [{ point: perOne[what], contender: name, metrics: { kbEach: summarize([kb]) } }];
  });
}

const perOne = { threads: { threads: "one more" }, connections: { threads: 1, connections: "one more" } };

function isAbout({ connections }: MemoryPoint, what: "threads" | "connections"): boolean {
  return what === "connections" ? connections > 0 : connections === 0;
}

const rows = await interleave(
  {
    points,
    contenders,
    rounds: ROUNDS,
    measure: async (candidate, point) => ({ rssMb: await rssMb(candidate, point) }),
  },
  options,
);
report(
  {
    name: "memory",
    question: "resident memory of a process with so many threads and connections, everything idle",
    metrics: [
      { key: "rssMb", title: "RSS MB" },
      { key: "kbEach", title: "kB each" },
    ],
    reference: "redthread",
    rows: [...rows, ...each(rows, "threads", THREADS), ...each(rows, "connections", CONNECTIONS)],
    notes: [
      "by hand: piscina with a module-global ioredis in each thread, and ioredis on the main thread; connections: so many clients in one thread",
      "redthread's connections are leased dedicated clients; each process was asked to collect its garbage first",
    ],
    chart: {
      title: "Resident memory of an idle process",
      yTitle: "MB",
      xTitle: "threads, each with a client",
      kind: "lines",
      panels: [
        panelOf(rows, {
          title: "threads",
          x: "threads",
          metric: "rssMb",
          where: (point) => isAbout(point, "threads"),
        }),
      ],
    },
  },
  options,
);
