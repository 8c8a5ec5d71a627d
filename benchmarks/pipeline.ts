/** What do pipelines and transactions cost in a thread, beside the bare clients? GETs of 100 bytes, one pipeline after the other. */
import { startRedis } from "../test/support/redis-server.js";
import type * as Tasks from "./contenders/pipeline-tasks.js";
import type { PipelineClient, PipelineInput } from "./contenders/pipeline-tasks.js";
import { openManagerOf } from "./contenders/redthread.js";
import { type Build, buildsOf } from "./support/build.js";
import { interleave } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { quantile } from "./support/statistics.js";

interface PipelinePoint extends Record<string, string | number> {
  readonly kind: PipelineInput["kind"];
  readonly gets: number;
}

const options = parseBenchOptions();
const [today, ...others] = buildsOf(options);
const ROUNDS = options.isSmoke ? 1 : 5;
/** By the GETs in each. With fewer than some hundred of a hundred, a round has no collection of garbage to show. */
const CALLS: Readonly<Record<number, number>> = options.isSmoke ? { 5: 20, 100: 20 } : { 5: 2_000, 100: 500 };

const points = (["pipeline", "transaction"] as const).flatMap((kind) =>
  [5, 100].map((gets): PipelinePoint => ({ kind, gets })),
);

await using server = await startRedis();
await server.admin.set("pipeline", "x".repeat(100));

/** Each with a thread to itself: one's garbage is not collected in another's turn. */
const openManager = (build: Build) =>
  openManagerOf<typeof Tasks>(build, "pipeline-tasks.js", { port: server.port, threads: 1 });
const candidates: readonly { readonly client: PipelineClient; readonly build: Build }[] = [
  ...[today, ...others].map((build) => ({ client: "redthread" as const, build })),
  { client: "ioredis", build: today },
  { client: "node-redis", build: today },
];
const contenders = await Promise.all(
  candidates.map(async ({ client, build }) => ({
    ...build.named(client),
    client,
    manager: await openManager(build),
  })),
);
await Promise.all(contenders.map(({ manager }) => manager.ready()));

const rows = await interleave(
  {
    points,
    contenders,
    rounds: ROUNDS,
    warmUps: options.isSmoke ? 0 : 1,
    async measure({ client, manager }, { kind, gets }) {
      const input: PipelineInput = { client, kind, gets, calls: CALLS[gets]!, port: server.port };
      const { samples, cpu } = await manager.run("measure", input);
      return { p50: quantile(samples, 0.5), p99: quantile(samples, 0.99), cpu };
    },
  },
  options,
);
for (const { manager } of contenders) await manager.shutdown();
report(
  {
    name: "pipeline",
    question: "pipelines and transactions of GETs, one after the other, in a thread",
    metrics: [
      { key: "p50", title: "p50 µs" },
      { key: "p99", title: "p99 µs" },
      { key: "cpu", title: "CPU µs" },
    ],
    reference: "redthread",
    rows,
    notes: ["CPU is the whole process's, for one of them; the server's is not in it"],
    chart: {
      title: "Microseconds per pipeline or transaction",
      yTitle: "µs",
      xTitle: "GETs in each",
      kind: "bars",
      isLog: true,
      panels: (["p50", "p99", "cpu"] as const).flatMap((metric) =>
        (["pipeline", "transaction"] as const).map((kind) =>
          panelOf(rows, {
            title: `${kind}, ${metric === "cpu" ? "CPU" : metric}`,
            x: "gets",
            metric,
            where: (point) => point.kind === kind,
          }),
        ),
      ),
    },
  },
  options,
);
