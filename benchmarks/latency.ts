/**
 * How long does a task take from the moment when it was due, against the offered load? Loads are shares of the most that
 * the tuned rival does in the same round, so that the row of 70 % is where one would run the rival.
 */
import { startRedis } from "../test/support/redis-server.js";
import { type Candidate, candidatesOf, ContenderProcess, fillKeys } from "./contenders/process.js";
import type { ContenderName } from "./contenders/roster.js";
import { builds, isSmoke, options, report } from "./support/benchmark.js";
import { chooseContenders, choosePoints, quantile, type Row, summarize, turns } from "./support/interleave.js";
import { roundsOf } from "./support/loops.js";

/** The CPU time of the tasks, and a share of the tuned rival's throughput with them. */
interface LatencyPoint extends Record<string, string | number> {
  readonly cpuMs: number;
  readonly load: string;
}

interface Run {
  readonly contender: string;
  readonly point: LatencyPoint;
  readonly perSecond: number;
  readonly latenciesMs: readonly number[];
}

const RIVAL: ContenderName = "piscina tuned + global ioredis";
const NAMES: readonly ContenderName[] = ["redthread run()", RIVAL, "main thread as proxy"];
const ROUNDS = isSmoke ? 1 : 3;
const SIZES_MS = isSmoke ? [1] : [0.1, 1, 10, 100];
const JUDGED_LOAD = 0.7;
const LOADS = new Map((isSmoke ? [JUDGED_LOAD] : [0.3, JUDGED_LOAD, 0.9]).map((load) => [`${100 * load} %`, load]));
const QUANTILES = { p50: 0.5, p99: 0.99, p999: 0.999 };
/** At least so long, and longer if there are few tasks. */
const BRIEF = { spanMs: 200, tasks: 3 };
const JUDGED = { spanMs: isSmoke ? 200 : 700, tasks: 10 };
const MOST = { callers: 32, ms: isSmoke ? 100 : 500 };
/** The compiler must see enough: calls that arrive one by one run other code than callers in step. */
const WARM = { perSecond: 3_000, ms: isSmoke ? 100 : 1_500 };
const ROUNDS_PER_MS = roundsOf(10) / 10;

const points = choosePoints(
  SIZES_MS.flatMap((cpuMs) => [...LOADS.keys()].map((load): LatencyPoint => ({ cpuMs, load }))),
  options,
);
const contenders = chooseContenders(candidatesOf(NAMES, builds), options);

await using server = await startRedis();
await fillKeys(server.admin);

const open = (candidate: Candidate): ContenderProcess => new ContenderProcess(candidate, server.port);

/** Tasks per second by ms of CPU. */
async function mostOfRival(): Promise<Map<number, number>> {
  await using rival = open({ name: RIVAL, contender: RIVAL, build: builds[0] });
  await rival.rate({ ...MOST, rounds: 0 }); // warms
  const most = new Map<number, number>();
  for (const cpuMs of SIZES_MS) {
    const { tasksPerSecond } = await rival.rate({ ...MOST, rounds: Math.round(cpuMs * ROUNDS_PER_MS) });
    most.set(cpuMs, tasksPerSecond);
  }
  return most;
}

async function oneRound(round: number): Promise<Run[]> {
  const most = await mostOfRival();
  const processes = contenders.map(open);
  for (const process of processes) await process.rate({ ...MOST, rounds: 0 });
  for (const process of processes) await process.latencies({ ...WARM, rounds: 0, seed: 0 });
  const runs: Run[] = [];
  for (const [at, point] of points.entries()) {
    const load = LOADS.get(point.load)!;
    const perSecond = load * most.get(point.cpuMs)!;
    const { spanMs, tasks } = load === JUDGED_LOAD ? JUDGED : BRIEF;
    const offer = {
      perSecond,
      rounds: Math.round(point.cpuMs * ROUNDS_PER_MS),
      ms: Math.max(spanMs, (1_000 * tasks) / perSecond),
      seed: round, // the same arrivals for all, others in the next round: the worst rush of a single seed would be the p99
    };
    for (const turn of turns(processes.length, round + at)) {
      const process = processes[turn]!;
      runs.push({ contender: process.name, point, perSecond, latenciesMs: await process.latencies(offer) });
    }
  }
  for (const process of processes) await process[Symbol.asyncDispose]();
  return runs;
}

/** Quantiles are of all tasks of all rounds, because one round has too few; the spread is the spread of the rounds. */
function rowOf(point: LatencyPoint, contender: string): Row<LatencyPoint> {
  const mine = runs.filter((run) => run.contender === contender && run.point === point);
  const all = mine.flatMap(({ latenciesMs }) => latenciesMs);
  const metrics = Object.entries(QUANTILES).map(([name, share]) => {
    const byRound = summarize(mine.map(({ latenciesMs }) => quantile(latenciesMs, share)));
    return [name, { ...byRound, median: quantile(all, share) }] as const;
  });
  const offered = summarize(mine.map(({ perSecond }) => perSecond));
  return { point, contender, metrics: { offered, ...Object.fromEntries(metrics) } };
}

const runs: Run[] = [];
for (let round = 0; round < ROUNDS; round++) runs.push(...(await oneRound(round)));
const rows = points.flatMap((point) => contenders.map(({ name }) => rowOf(point, name)));
report(
  {
    question: "GET 4 kB + CPU + SET in 2 threads: ms from when a task was due, against the offered load",
    columns: { offered: "offered/s", p50: "p50 ms", p99: "p99 ms", p999: "p99.9 ms" },
    reference: "redthread run()",
    notes: [
      "load: share of what the tuned rival did at most, in the same round",
      "arrivals are exponential and wait for a timer of 1 ms, the same for all; 70 % is where one would run the rival",
      "quantiles are of all tasks of all rounds, the spread is that of the rounds; each contender has a process to itself in each round; they take turns",
      "of the longest tasks there are some dozens: their p99 is the slowest of them",
    ],
    chart: {
      title: "p99 from the time a task was due, against the offered load",
      yTitle: "p99, ms",
      xTitle: "load, of the tuned rival's throughput",
      kind: "lines",
      isLog: true,
      panels: SIZES_MS.map((size) => ({
        title: `tasks of ${size} ms`,
        x: "load",
        metric: "p99",
        where: ({ cpuMs }) => cpuMs === size,
      })),
    },
  },
  rows,
);
