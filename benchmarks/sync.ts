/**
 * What does a synchronous call cost beside an asynchronous one of the same thread? Single GETs and pipelines of 100, in
 * turn; p50 and p99 of each round.
 */
import { startRedis } from "../test/support/redis-server.js";
import { openManagers } from "./contenders/redthread/redthread.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";
import { quantile } from "./support/interleave.js";
import type * as Tasks from "./sync/tasks.js";

const CALLS = { GET: isSmoke ? 20 : 5_000, "pipeline of 100": isSmoke ? 5 : 500 };

await using server = await startRedis();
for (let i = 0; i < 100; i++) await server.admin.set(`bench:${i}`, "x".repeat(100));
const options = { redis: { port: server.port }, threads: { count: 1 } };
await using managers = await openManagers<typeof Tasks>(builds, options, "sync/tasks.js");
const { ms, mb } = await managers[0]!.run("start");
await benchmark({
  question: "synchronous beside asynchronous calls of one thread",
  columns: { p50: "p50 µs", p99: "p99 µs" },
  reference: "sync",
  points: (["GET", "pipeline of 100"] as const).map((call) => ({ call })),
  contenders: builds.flatMap((build, at) =>
    (["sync", "async"] as const).map((how) => ({ ...build.named(how), how, manager: managers[at]! })),
  ),
  rounds: isSmoke ? 1 : 11,
  warmUps: 2,
  async measure({ how, manager }, { call }) {
    const samples = await manager.run("measure", { how, call, calls: CALLS[call] });
    return { p50: quantile(samples, 0.5), p99: quantile(samples, 0.99) };
  },
  notes: [`a thread's first synchronous call starts its helper: ${Math.round(ms)} ms, ${mb.toFixed(0)} MB`],
  chart: {
    title: "Microseconds per call: redthread/sync beside await",
    yTitle: "µs",
    isLog: true,
    panels: (["p50", "p99"] as const).map((metric) => ({ title: metric, x: "call", metric })),
  },
});
