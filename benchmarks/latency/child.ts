/** One contender in one round, in a process of its own; prints what it has measured. */
import { openLoop } from "../support/open-loop.js";
import { roundInput } from "../support/own-processes.js";
import { ROSTER } from "./roster.js";

/** A CPU time of tasks and a share of the tuned rival's throughput with them. */
export interface LatencyPoint extends Record<string, string | number> {
  readonly cpuMs: number;
  readonly load: string;
}

export interface RoundInput {
  readonly contender: string;
  readonly port: number;
  readonly key: string;
  readonly round: number;
  readonly roundsPerMs: number;
  readonly sizesMs: readonly number[];
  /** Loads to be offered; without them it prints what the contender does at most: tasks per second by size, in their order. */
  readonly offers?: readonly Offer[];
}

export interface Offer {
  readonly point: LatencyPoint;
  readonly perSecond: number;
  /** Judged by its p99, and so asked for longer. */
  readonly isJudged: boolean;
}

/** Latencies in ms, by offer. */
export type Latencies = readonly (readonly number[])[];

const THREADS = 2;
const { input, options } = roundInput();
const { contender, port, key, round, roundsPerMs, sizesMs, offers } = input as RoundInput;
const { isSmoke } = options;
/** At least so long, and longer where tasks are few. */
const BRIEF = { spanMs: 200, tasks: 3 };
const LONG = { spanMs: isSmoke ? 200 : 700, tasks: 10 };
/** Until the compiler has seen enough; calls that come one by one run other code than those of callers in step. */
const WARM = isSmoke ? { closedMs: 100, openMs: 100 } : { closedMs: 400, openMs: 1_500 };
const WARM_PER_SECOND = 3_000;
const MOST_MS = isSmoke ? 100 : 500;

const { drive, close } = ROSTER.find(({ name }) => name === contender)!.open({ port, threads: THREADS });

const itemOf = (cpuMs: number) => ({ key, rounds: Math.round(cpuMs * roundsPerMs) });

/** At most, from callers that wait for theirs. */
async function throughput(cpuMs: number, leastMs: number): Promise<number> {
  const startedAt = performance.now();
  let tasks = 0;
  function* items() {
    for (; performance.now() - startedAt < leastMs; tasks++) yield itemOf(cpuMs);
  }
  await drive(items(), 16 * THREADS);
  return tasks / ((performance.now() - startedAt) / 1_000);
}

/** All meet the same crowd, and another one in the next round: one crowd's worst rush would be the p99. */
function latencies(cpuMs: number, perSecond: number, durationMs: number): Promise<number[]> {
  return openLoop({ perSecond, durationMs, seed: round, call: () => drive([itemOf(cpuMs)], 1) });
}

await throughput(0.1, WARM.closedMs);
const found: (number | readonly number[])[] = [];
if (offers) {
  await latencies(0.1, WARM_PER_SECOND, WARM.openMs);
  for (const { point, perSecond, isJudged } of offers) {
    const { spanMs, tasks } = isJudged ? LONG : BRIEF;
    const all = await latencies(point.cpuMs, perSecond, Math.max(spanMs, (1_000 * tasks) / perSecond));
    found.push(all.map((ms) => Number(ms.toFixed(3))));
  }
} else {
  for (const cpuMs of sizesMs) found.push(await throughput(cpuMs, MOST_MS));
}
console.log(JSON.stringify(found));
await close();
