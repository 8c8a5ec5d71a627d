/**
 * What does a synchronous call cost beside an asynchronous one of the same thread? Single GETs and pipelines of 100, in
 * turn; p50 and p99 of each round.
 */
import { ConnectionManager } from "redthread";
import { silent } from "../test/support/silent.js";
import { startRedis } from "../test/support/redis-server.js";
import type * as Tasks from "./contenders/sync-tasks.js";
import { interleave } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { quantile } from "./support/statistics.js";

const options = parseBenchOptions();
const ROUNDS = options.isSmoke ? 1 : 11;
const CALLS = { GET: options.isSmoke ? 20 : 5_000, "pipeline of 100": options.isSmoke ? 5 : 500 };

await using server = await startRedis();
for (let i = 0; i < 100; i++) await server.admin.set(`bench:${i}`, "x".repeat(100));
await using manager = new ConnectionManager<typeof Tasks>({
  tasks: new URL("./contenders/sync-tasks.js", import.meta.url),
  env: {},
  logger: silent,
  redis: { port: server.port },
  threads: { count: 1 },
});
await manager.ready();
const { ms, mb } = await manager.run("start");
const rows = await interleave(
  {
    points: (["GET", "pipeline of 100"] as const).map((call) => ({ call })),
    contenders: [{ name: "sync" as const }, { name: "async" as const }],
    rounds: ROUNDS,
    warmUps: 2,
    async measure({ name }, { call }) {
      const samples = await manager.run("measure", { how: name, call, calls: CALLS[call] });
      return { p50: quantile(samples, 0.5), p99: quantile(samples, 0.99) };
    },
  },
  options,
);
report(
  {
    name: "sync",
    question: "synchronous beside asynchronous calls of one thread",
    metrics: [
      { key: "p50", title: "p50 µs" },
      { key: "p99", title: "p99 µs" },
    ],
    reference: "sync",
    rows,
    notes: [`a thread's first synchronous call starts its helper: ${Math.round(ms)} ms, ${mb.toFixed(0)} MB`],
    chart: {
      title: "Microseconds per call: redthread/sync beside await",
      yTitle: "µs",
      xTitle: "",
      kind: "bars",
      isLog: true,
      panels: [
        panelOf(rows, { title: "p50", x: "call", metric: "p50" }),
        panelOf(rows, { title: "p99", x: "call", metric: "p99" }),
      ],
    },
  },
  options,
);
