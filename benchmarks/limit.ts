/** What share of redis-benchmark's ceiling do plain tasks reach, at the same connections, size and pipeline depth? */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { ConnectionManager } from "redthread";
import { silent } from "../test/support/silent.js";
import { startRedis } from "../test/support/redis-server.js";
import type * as Tasks from "./contenders/limit-tasks.js";
import { interleave, type Sample } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";

interface LimitPoint extends Record<string, string | number> {
  /** Commands under way on each connection. */
  readonly depth: number;
}

interface Client {
  readonly name: string;
  readonly getsPerSecond: (depth: number) => Promise<number>;
}

const options = parseBenchOptions();
const THREADS = 2;
const BYTES = 4_096;
const ROUNDS = options.isSmoke ? 1 : 5;
/** Fewer where each waits for the one before it. */
const getsOf = (depth: number): number => (options.isSmoke ? 1_000 : depth === 1 ? 8_000 : 30_000);
/** What redis-benchmark reads: without -r it fills nothing in. */
const KEY = "key:__rand_int__";
const run = promisify(execFile);

await using server = await startRedis();
await server.admin.set(KEY, "x".repeat(BYTES));
await using manager = new ConnectionManager<typeof Tasks>({
  tasks: new URL("./contenders/limit-tasks.js", import.meta.url),
  env: {},
  logger: silent,
  redis: { port: server.port },
  threads: { count: THREADS },
});
await manager.ready();

/** A task per GET: what a service does. */
async function byTasks(depth: number): Promise<number> {
  return timed(getsOf(depth), THREADS * depth, () => manager.run("get", KEY));
}

/** One task per thread with all the GETs in it: without the way between the threads. */
async function withinTasks(depth: number): Promise<number> {
  const startedAt = performance.now();
  const gets = getsOf(depth) / THREADS;
  // Exclusive: each has a thread to itself.
  await Promise.all(
    Array.from({ length: THREADS }, () => manager.run("getMany", { key: KEY, depth, gets }, { exclusive: true })),
  );
  return (gets * THREADS) / ((performance.now() - startedAt) / 1_000);
}

async function timed(calls: number, callers: number, call: () => Promise<unknown>): Promise<number> {
  let left = calls;
  const startedAt = performance.now();
  const caller = async (): Promise<void> => {
    while (left-- > 0) await call();
  };
  await Promise.all(Array.from({ length: callers }, caller));
  return calls / ((performance.now() - startedAt) / 1_000);
}

async function ceiling(depth: number): Promise<number> {
  const flags = { p: server.port, c: THREADS, P: depth, d: BYTES, n: getsOf(depth), t: "get" };
  const args = Object.entries(flags).flatMap(([flag, value]) => [`-${flag}`, String(value)]);
  const { stdout } = await run("redis-benchmark", [...args, "--csv"]);
  return Number(/"GET","([\d.]+)"/.exec(stdout)?.[1]);
}

async function hasRedisBenchmark(): Promise<boolean> {
  return run("redis-benchmark", ["--version"]).then(
    () => true,
    () => false,
  );
}

async function measure({ getsPerSecond }: Client, { depth }: LimitPoint): Promise<Sample> {
  return { getsPerSecond: await getsPerSecond(depth) };
}

if (!(await hasRedisBenchmark())) {
  console.log("limit: skipped, there is no redis-benchmark here (Debian: apt-get install redis-tools)");
} else {
  const contenders: Client[] = [
    { name: "redis-benchmark", getsPerSecond: ceiling },
    { name: "redthread, all GETs in a task", getsPerSecond: withinTasks },
    { name: "redthread, a task per GET", getsPerSecond: byTasks },
  ];
  const points = (options.isSmoke ? [16] : [1, 16, 64]).map((depth): LimitPoint => ({ depth }));
  const rows = await interleave({ points, contenders, rounds: ROUNDS, warmUps: 1, measure }, options);
  report(
    {
      name: "limit",
      question: `GETs of ${BYTES} bytes per second over ${THREADS} connections, beside redis-benchmark`,
      metrics: [{ key: "getsPerSecond", title: "GETs/s" }],
      reference: "redis-benchmark",
      rows,
      notes: [
        "depth: commands under way on each connection; the share of the ceiling is 1 / ratio; redis-benchmark, in C, makes no values of the replies",
        "threads take 32 tasks at once by default: deeper than that the tasks wait in the queue",
      ],
      chart: {
        title: `GETs of ${BYTES} bytes over ${THREADS} connections`,
        yTitle: "GETs per second",
        xTitle: "commands under way on each connection",
        kind: "bars",
        panels: [panelOf(rows, { title: "GETs per second", x: "depth", metric: "getsPerSecond" })],
      },
    },
    options,
  );
}
