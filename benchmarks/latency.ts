/**
 * How long does a task take from the moment it was due, against the load that is offered? Loads are shares of what the
 * tuned rival does at most in the same run, so that the row of 70 % is where one would run it.
 */
import { startRedis } from "../test/support/redis-server.js";
import { piscinaTuned, proxy } from "./contenders/by-hand.js";
import { type Contender, type Entrant, openAll } from "./contenders/contender.js";
import { redthread } from "./contenders/redthread.js";
import { interleave, labelOf, type Sample } from "./support/interleave.js";
import { openLoop } from "./support/open-loop.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { quantile } from "./support/statistics.js";
import { roundsOf } from "./work.js";

interface LatencyPoint extends Record<string, string | number> {
  readonly cpuMs: number;
  readonly load: string;
}

const THREADS = 2;
const KEY = "bench:latency";
const options = parseBenchOptions();
const { isSmoke } = options;
const ROUNDS = isSmoke ? 1 : 4;
const SIZES_MS = isSmoke ? [1] : [0.1, 1, 10, 100];
const LOADS = isSmoke ? [0.7] : [0.3, 0.7, 0.9];
/** At least so long, and longer where tasks are few; at the load where one would run it, which is judged, longest. */
const ROUND_MS = isSmoke ? 200 : 300;
const JUDGED_ROUND_MS = isSmoke ? 200 : 1_000;
const JUDGED_LOAD = 0.7;
const TASKS_PER_ROUND = 10;
const JUDGED_TASKS_PER_ROUND = isSmoke ? 10 : 20;

const label = (share: number): string => `${Math.round(100 * share)} %`;
const points = SIZES_MS.flatMap((cpuMs) => LOADS.map((share): LatencyPoint => ({ cpuMs, load: label(share) })));
const roundsPerMs = roundsOf(10) / 10;

/** At most, from callers that wait for theirs. */
async function throughput({ drive }: Contender, cpuMs: number): Promise<number> {
  const startedAt = performance.now();
  let tasks = 0;
  function* items() {
    const leastMs = isSmoke ? 100 : 500;
    for (; performance.now() - startedAt < leastMs; tasks++)
      yield { key: KEY, rounds: Math.round(cpuMs * roundsPerMs) };
  }
  await drive(items(), 16 * THREADS);
  return tasks / ((performance.now() - startedAt) / 1_000);
}

await using server = await startRedis();
await server.admin.set(KEY, "x".repeat(4_096));
const where = { port: server.port, threads: THREADS };
const contenders = await openAll([
  { name: "redthread run()", open: () => redthread(where) },
  { name: "piscina tuned + global ioredis", open: () => piscinaTuned(where) },
  { name: "main thread as proxy", open: () => proxy(where) },
]);
for (const contender of contenders) await throughput(contender, 0.1); // threads up, clients connected, code warm
const most = new Map<number, number>();
for (const cpuMs of SIZES_MS) most.set(cpuMs, await throughput(contenders[1]!, cpuMs));

/** Of all rounds, by contender and point: in one round tasks are too few. */
const all = new Map<string, number[]>();
const placeOf = (contender: string, point: LatencyPoint): string => `${contender} ${labelOf(point)}`;

function quantilesOf(latencies: readonly number[]): { p50: number; p99: number; p999: number } {
  return { p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99), p999: quantile(latencies, 0.999) };
}

async function measure({ name, drive }: Contender & Entrant, point: LatencyPoint, round: number): Promise<Sample> {
  const { cpuMs, load } = point;
  const share = LOADS.find((one) => label(one) === load)!;
  const perSecond = share * most.get(cpuMs)!;
  const item = { key: KEY, rounds: Math.round(cpuMs * roundsPerMs) };
  const [roundMs, tasks] =
    share === JUDGED_LOAD ? [JUDGED_ROUND_MS, JUDGED_TASKS_PER_ROUND] : [ROUND_MS, TASKS_PER_ROUND];
  const latencies = await openLoop({
    perSecond,
    durationMs: Math.max(roundMs, (1_000 * tasks) / perSecond),
    seed: round, // all meet the same crowd, and another one in the next round: one crowd's worst rush would be the p99
    call: () => drive([item], 1),
  });
  const place = placeOf(name, point);
  all.set(place, [...(all.get(place) ?? []), ...latencies]);
  return { offered: perSecond, ...quantilesOf(latencies) };
}

const byRounds = await interleave({ points, contenders, rounds: ROUNDS, measure }, options);
const rows = byRounds.map((row) => {
  const pooled = quantilesOf(all.get(placeOf(row.contender, row.point))!);
  const metrics = { ...row.metrics };
  for (const [key, median] of Object.entries(pooled)) metrics[key] = { ...metrics[key]!, median };
  return { ...row, metrics };
});
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
      `load: share of what the tuned rival did at most: ${[...most].map(([ms, perSecond]) => `${ms} ms ${Math.round(perSecond)}/s`).join(", ")}`,
      "arrivals are exponential and wait for a timer of 1 ms, the same for all; 70 % is where one would run the rival",
      "quantiles are of all tasks of all rounds, the spread is that of the rounds",
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
for (const { close } of contenders) await close();
