/** How much memory does a thread take, and a connection, beside piscina and ioredis? Each contender has its own process. */
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startRedis } from "../test/support/redis-server.js";
import type { MemoryInput } from "./memory/child.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";
import { type Row, summarize } from "./support/interleave.js";

const MB = 2 ** 20;
const THREADS = isSmoke ? [1, 2] : [8, 16, 32];
const CONNECTIONS = isSmoke ? [1, 2] : [50, 250];

await using server = await startRedis();
const contenders = [
  ...builds.map((build) => ({ ...build.named("redthread"), contender: "redthread" as const, build })),
  { name: "by hand", contender: "by hand" as const, build: builds[0] },
];

/** The memory of one more: the difference between the largest and the smallest process, divided. */
function each(rows: readonly Row[], what: "threads" | "connections", among: readonly number[]): Row[] {
  const [least, most] = [among[0]!, among.at(-1)!];
  const mine = rows.filter(({ point }) => (point["connections"] === 0) === (what === "threads"));
  const point = what === "threads" ? { threads: "one more" } : { threads: 1, connections: "one more" };
  return contenders.flatMap(({ name }) => {
    const at = (count: number) => mine.find((row) => row.contender === name && row.point[what] === count);
    const [small, large] = [at(least)?.metrics["rssMb"], at(most)?.metrics["rssMb"]];
    if (!small || !large) return [];
    const kb = (1_024 * (large.median - small.median)) / (most - least);
    return [{ point, contender: name, metrics: { kbEach: summarize([kb]) } }];
  });
}

await benchmark({
  question: "resident memory of a process with so many threads and connections, everything idle",
  columns: { rssMb: "RSS MB", kbEach: "kB each" },
  reference: "redthread",
  points: [
    ...THREADS.map((threads) => ({ threads, connections: 0 })),
    ...CONNECTIONS.map((connections) => ({ threads: 1, connections })),
  ],
  contenders,
  rounds: 1, // the memory of two processes differs by 2 %
  async measure({ contender, build }, { threads, connections }) {
    const child = fileURLToPath(build.script("memory/child.js"));
    const input: MemoryInput = { port: server.port, contender, threads, connections };
    const { stdout } = await promisify(execFile)(process.execPath, ["--expose-gc", child, JSON.stringify(input)]);
    return { rssMb: Number(stdout) / MB };
  },
  derive: (rows) => [...rows, ...each(rows, "threads", THREADS), ...each(rows, "connections", CONNECTIONS)],
  notes: [
    "by hand: piscina with a module-global ioredis in each thread, and ioredis on the main thread; connections: so many clients in one thread",
    "redthread's connections are leased dedicated clients; each process was asked to collect its garbage first",
  ],
  chart: {
    title: "Resident memory of an idle process",
    yTitle: "MB",
    xTitle: "threads, each with a client",
    kind: "lines",
    panels: [{ title: "threads", x: "threads", metric: "rssMb", where: ({ connections }) => connections === 0 }],
  },
});
