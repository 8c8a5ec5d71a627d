/**
 * What does a synchronous call cost beside an asynchronous one of the same thread? Single GETs and pipelines of 100, in
 * turn; p50 and p99 of each round.
 */
import { startRedis } from "../test/support/redis-server.js";
import { openManagerOf } from "./contenders/redthread.js";
import type * as Tasks from "./contenders/sync-tasks.js";
import { buildsOf } from "./support/build.js";
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
const builds = await Promise.all(
  buildsOf(options).map(async (build) => ({
    build,
    manager: await openManagerOf<typeof Tasks>(build, "sync-tasks.js", { port: server.port, threads: 1 }),
  })),
);
for (const { manager } of builds) await manager.ready();
const { ms, mb } = await builds[0]!.manager.run("start");
const contenders = builds.flatMap(({ build, manager }) =>
  (["sync", "async"] as const).map((how) => ({ ...build.named(how), how, manager })),
);
const rows = await interleave(
  {
    points: (["GET", "pipeline of 100"] as const).map((call) => ({ call })),
    contenders,
    rounds: ROUNDS,
    warmUps: 2,
    async measure({ how, manager }, { call }) {
      const samples = await manager.run("measure", { how, call, calls: CALLS[call] });
      return { p50: quantile(samples, 0.5), p99: quantile(samples, 0.99) };
    },
  },
  options,
);
for (const { manager } of builds) await manager.shutdown();
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
