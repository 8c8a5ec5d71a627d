/** What share of redis-benchmark's ceiling do plain tasks reach, at the same connections, size and pipeline depth? */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { startRedis } from "../test/support/redis-server.js";
import { byCallers } from "./contenders/contender.js";
import { openManager } from "./contenders/redthread/redthread.js";
import type * as Tasks from "./contenders/redthread/tasks.js";
import { benchmark, isSmoke } from "./support/benchmark.js";

const THREADS = 2;
const BYTES = 4_096;
/** Fewer when each waits for the one before it. */
const getsOf = (depth: number): number => (isSmoke ? 1_000 : depth === 1 ? 8_000 : 30_000);
/** The key that redis-benchmark reads: without -r it puts nothing in its place. */
const KEY = "key:__rand_int__";
const run = promisify(execFile);

await using server = await startRedis();
await server.admin.set(KEY, "x".repeat(BYTES));
await using manager = openManager<typeof Tasks>({ redis: { port: server.port }, threads: { count: THREADS } });
await manager.ready();

async function ceiling(depth: number): Promise<number> {
  const flags = { p: server.port, c: THREADS, P: depth, d: BYTES, n: getsOf(depth), t: "get" };
  const args = Object.entries(flags).flatMap(([flag, value]) => [`-${flag}`, String(value)]);
  const { stdout } = await run("redis-benchmark", [...args, "--csv"]);
  return Number(/"GET","([\d.]+)"/.exec(stdout)?.[1]);
}

/** One task per thread with all the GETs in it: nothing crosses between the threads. */
async function withinTasks(depth: number): Promise<number> {
  const input = { key: KEY, depth, gets: getsOf(depth) / THREADS };
  // An exclusive task has its thread to itself.
  const tasks = Array.from({ length: THREADS }, () => manager.run("getMany", input, { exclusive: true }));
  return perSecond(getsOf(depth), Promise.all(tasks));
}

/** A task per GET: what a service does. */
async function byTasks(depth: number): Promise<number> {
  const keys = Array.from({ length: getsOf(depth) }, () => KEY);
  return perSecond(keys.length, byCallers((key: string) => manager.run("get", key))(keys, THREADS * depth));
}

async function perSecond(calls: number, done: Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await done;
  return (1_000 * calls) / (performance.now() - startedAt);
}

const hasRedisBenchmark = await run("redis-benchmark", ["--version"]).then(
  () => true,
  () => false,
);
if (!hasRedisBenchmark) {
  console.log("limit: skipped, there is no redis-benchmark here (Debian: apt-get install redis-tools)");
} else {
  await benchmark({
    question: `GETs of ${BYTES} bytes per second over ${THREADS} connections, beside redis-benchmark`,
    columns: { getsPerSecond: "GETs/s" },
    reference: "redis-benchmark",
    points: (isSmoke ? [16] : [1, 16, 64]).map((depth) => ({ depth })),
    contenders: [
      { name: "redis-benchmark", getsPerSecond: ceiling },
      { name: "redthread, all GETs in a task", getsPerSecond: withinTasks },
      { name: "redthread, a task per GET", getsPerSecond: byTasks },
    ],
    rounds: isSmoke ? 1 : 5,
    warmUps: 1,
    measure: async ({ getsPerSecond }, { depth }) => ({ getsPerSecond: await getsPerSecond(depth) }),
    notes: [
      "depth: commands under way on each connection; the share of the ceiling is 1 / ratio; redis-benchmark, in C, makes no values of the replies",
      "threads take 32 tasks at once by default: deeper than that the tasks wait in the queue",
    ],
    chart: {
      title: `GETs of ${BYTES} bytes over ${THREADS} connections`,
      yTitle: "GETs per second",
      xTitle: "commands under way on each connection",
      panels: [{ title: "GETs per second", x: "depth", metric: "getsPerSecond" }],
    },
  });
}
