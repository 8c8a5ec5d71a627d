/**
 * How long does a task take from the moment it was due, against the load that is offered? Loads are shares of what the
 * tuned rival does at most in the same round, so that the row of 70 % is where one would run it. As in a service, each
 * contender has a process to itself: beside others it ran code that the compiler had seen less of.
 */
import { startRedis } from "../test/support/redis-server.js";
import type { Latencies, LatencyPoint, Offer, RoundInput } from "./latency/child.js";
import { RIVAL, ROSTER } from "./latency/roster.js";
import { chooseContenders, choosePoints, type Row, turns } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { inOwnProcess } from "./support/own-processes.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { roundsOf } from "./support/rounds-of.js";
import { quantile, summarize } from "./support/statistics.js";

interface Run {
  readonly contender: string;
  readonly offer: Offer;
  readonly latenciesMs: readonly number[];
}

const KEY = "bench:latency";
const CHILD = new URL("./latency/child.js", import.meta.url);
const options = parseBenchOptions();
const { isSmoke } = options;
const ROUNDS = isSmoke ? 1 : 5;
const SIZES_MS = isSmoke ? [1] : [0.1, 1, 10, 100];
const JUDGED_LOAD = 0.7;
const LOADS = new Map((isSmoke ? [JUDGED_LOAD] : [0.3, JUDGED_LOAD, 0.9]).map((load) => [`${100 * load} %`, load]));
const QUANTILES = { p50: 0.5, p99: 0.99, p999: 0.999 };

const points = choosePoints(
  SIZES_MS.flatMap((cpuMs) => [...LOADS.keys()].map((load): LatencyPoint => ({ cpuMs, load }))),
  options,
);
const contenders = chooseContenders(ROSTER, options);

await using server = await startRedis();
await server.admin.set(KEY, "x".repeat(4_096));
const common = { port: server.port, key: KEY, roundsPerMs: roundsOf(10) / 10, sizesMs: SIZES_MS };

async function oneRound(round: number): Promise<Run[]> {
  const ask = <T>(input: Pick<RoundInput, "contender" | "offers">): Promise<T> =>
    inOwnProcess(CHILD, { ...common, round, ...input } satisfies RoundInput);
  const most = await ask<number[]>({ contender: RIVAL });
  const offers = points.map((point): Offer => {
    const load = LOADS.get(point.load)!;
    return { point, perSecond: load * most[SIZES_MS.indexOf(point.cpuMs)]!, isJudged: load === JUDGED_LOAD };
  });
  const runs: Run[] = [];
  for (const at of turns(contenders.length, round)) {
    const contender = contenders[at]!.name;
    const latencies = await ask<Latencies>({ contender, offers });
    runs.push(...offers.map((offer, i) => ({ contender, offer, latenciesMs: latencies[i]! })));
  }
  return runs;
}

/** Quantiles are of all tasks of all rounds, for in one round they are too few; the spread is that of the rounds. */
function rowOf(point: LatencyPoint, contender: string): Row<LatencyPoint> {
  const mine = runs.filter((run) => run.contender === contender && run.offer.point === point);
  const all = mine.flatMap(({ latenciesMs }) => latenciesMs);
  const metrics = Object.entries(QUANTILES).map(([name, share]) => {
    const byRound = summarize(mine.map(({ latenciesMs }) => quantile(latenciesMs, share)));
    return [name, { ...byRound, median: quantile(all, share) }] as const;
  });
  const offered = summarize(mine.map(({ offer }) => offer.perSecond));
  return { point, contender, metrics: { offered, ...Object.fromEntries(metrics) } };
}

const runs: Run[] = [];
for (let round = 0; round < ROUNDS; round++) runs.push(...(await oneRound(round)));
const rows = points.flatMap((point) => contenders.map(({ name }) => rowOf(point, name)));
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
      "load: share of what the tuned rival did at most, in the same round",
      "arrivals are exponential and wait for a timer of 1 ms, the same for all; 70 % is where one would run the rival",
      "quantiles are of all tasks of all rounds, the spread is that of the rounds; each contender has a process to itself in each round",
      "of the longest tasks there are some dozens: their p99 is the slowest of them",
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
