/** What do pipelines and transactions cost in a thread, beside the bare clients? GETs of 100 bytes, one pipeline after the other. */
import { startRedis } from "../test/support/redis-server.js";
import { openManagers } from "./contenders/redthread/redthread.js";
import type * as Tasks from "./pipeline/tasks.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";
import { quantile } from "./support/interleave.js";

const KINDS = ["pipeline", "transaction"] as const;
/** By the GETs in each. In fewer than some hundred calls with 100 GETs, no garbage is collected. */
const CALLS: Readonly<Record<number, number>> = isSmoke ? { 5: 20, 100: 20 } : { 5: 2_000, 100: 500 };

await using server = await startRedis();
const { port } = server;
await server.admin.set("pipeline", "x".repeat(100));
const clients = [
  ...builds.map((build) => ({ client: "redthread" as const, build })),
  { client: "ioredis" as const, build: builds[0] },
  { client: "node-redis" as const, build: builds[0] },
];
// A thread for each: none collects the garbage of another.
await using managers = await openManagers<typeof Tasks>(
  clients.map(({ build }) => build),
  { redis: { port }, threads: { count: 1 } },
  "pipeline/tasks.js",
);

await benchmark({
  question: "pipelines and transactions of GETs, one after the other, in a thread",
  columns: { p50: "p50 µs", p99: "p99 µs", cpu: "CPU µs" },
  reference: "redthread",
  points: KINDS.flatMap((kind) => [5, 100].map((gets) => ({ kind, gets }))),
  contenders: clients.map(({ client, build }, at) => ({ ...build.named(client), client, manager: managers[at]! })),
  rounds: isSmoke ? 1 : 5,
  warmUps: isSmoke ? 0 : 1,
  async measure({ client, manager }, { kind, gets }) {
    const { samples, cpu } = await manager.run("measure", { client, kind, gets, calls: CALLS[gets]!, port });
    return { p50: quantile(samples, 0.5), p99: quantile(samples, 0.99), cpu };
  },
  notes: ["CPU is the whole process's, for one of them; the server's is not in it"],
  chart: {
    title: "Microseconds per pipeline or transaction",
    yTitle: "µs",
    xTitle: "GETs in each",
    isLog: true,
    panels: ["p50", "p99", "cpu"].flatMap((metric) =>
      KINDS.map((kind) => ({
        title: `${kind}, ${metric === "cpu" ? "CPU" : metric}`,
        x: "gets",
        metric,
        where: (point) => point["kind"] === kind,
      })),
    ),
  },
});
