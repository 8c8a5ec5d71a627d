/**
 * How long does a task take from the moment it was due, against the load that is offered? Loads are shares of what the
 * tuned rival does at most in the same round, so that the row of 70 % is where one would run it.
 */
import { startRedis } from "../test/support/redis-server.js";
import type { LatencyPoint, RoundInput, Run } from "./latency/child.js";
import { labelOf, type Row } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { inOwnProcesses } from "./support/own-processes.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { roundsOf } from "./support/rounds-of.js";
import { quantile, summarize } from "./support/statistics.js";

const KEY = "bench:latency";
const options = parseBenchOptions();
const { isSmoke } = options;
const ROUNDS = isSmoke ? 1 : 5;
const SIZES_MS = isSmoke ? [1] : [0.1, 1, 10, 100];
const LOADS = isSmoke ? [0.7] : [0.3, 0.7, 0.9];
const ROUNDS_PER_MS = roundsOf(10) / 10;
const QUANTILES = { p50: 0.5, p99: 0.99, p999: 0.999 };

await using server = await startRedis();
await server.admin.set(KEY, "x".repeat(4_096));

/** Quantiles are of all tasks of all rounds, for in one round they are too few; the spread is that of the rounds. */
function rowOf(runs: readonly Run[]): Row<LatencyPoint> {
  const { contender, point } = runs[0]!;
  const all = runs.flatMap(({ latenciesMs }) => latenciesMs);
  const metrics = Object.entries(QUANTILES).map(([name, share]) => {
    const byRound = summarize(runs.map(({ latenciesMs }) => quantile(latenciesMs, share)));
    return [name, { ...byRound, median: quantile(all, share) }] as const;
  });
  const offered = summarize(runs.map((run) => run.offered));
  return { point, contender, metrics: { offered, ...Object.fromEntries(metrics) } };
}

const byPlace = new Map<string, Run[]>();
const byRound = await inOwnProcesses<RoundInput, Run[]>({
  script: new URL("./latency/child.js", import.meta.url),
  rounds: ROUNDS,
  input: (round) => ({
    port: server.port,
    key: KEY,
    round,
    roundsPerMs: ROUNDS_PER_MS,
    sizesMs: SIZES_MS,
    loads: LOADS,
  }),
});
for (const run of byRound.flat()) {
  const place = `${labelOf(run.point)} ${run.contender}`;
  byPlace.set(place, [...(byPlace.get(place) ?? []), run]);
}
const rows = [...byPlace.values()].map(rowOf);
report(
  {
    name: "latency",
    question: "GET 4 kB + CPU + SET in 2 threads: ms from when a task was due, against the offered load",
    metrics: [
      { key: "offered", title: "offered/s" },
      { key: "p50", title: "p50 ms" },
      { key: "p99", title: "p99 ms" },
      { key: "p999", title: "p99.9 ms" },
    ],
    reference: "redthread run()",
    rows,
    notes: [
      "load: share of what the tuned rival did at most, in the same process",
      "arrivals are exponential and wait for a timer of 1 ms, the same for all; 70 % is where one would run the rival",
      "quantiles are of all tasks of all rounds, the spread is that of the rounds; each round has a process of its own",
    ],
    chart: {
      title: "p99 from the time a task was due, against the offered load",
      yTitle: "p99, ms",
      xTitle: "load, of the tuned rival's throughput",
      kind: "lines",
      isLog: true,
      panels: SIZES_MS.map((cpuMs) =>
        panelOf(rows, {
          title: `tasks of ${cpuMs} ms`,
          x: "load",
          metric: "p99",
          where: (point) => point.cpuMs === cpuMs,
        }),
      ),
    },
  },
  options,
);
