/** One round of all contenders, in a process of its own; prints what it has measured. */
import { piscinaTuned, proxy } from "../contenders/by-hand.js";
import { type Contender, type Entrant, openAll } from "../contenders/contender.js";
import { redthread } from "../contenders/redthread.js";
import { interleave } from "../support/interleave.js";
import { openLoop } from "../support/open-loop.js";
import { roundInput } from "../support/own-processes.js";

/** A CPU time of tasks and a share of the tuned rival's throughput with them. */
export interface LatencyPoint extends Record<string, string | number> {
  readonly cpuMs: number;
  readonly load: string;
}

export interface RoundInput {
  readonly port: number;
  readonly key: string;
  readonly round: number;
  readonly roundsPerMs: number;
  readonly sizesMs: readonly number[];
  readonly loads: readonly number[];
}

export interface Run {
  readonly contender: string;
  readonly point: LatencyPoint;
  readonly offered: number;
  readonly latenciesMs: readonly number[];
}

const THREADS = 2;
const { input, options } = roundInput();
const { port, key, round, roundsPerMs, sizesMs, loads } = input as RoundInput;
const { isSmoke } = options;
/** At least so long, and longer where tasks are few; at the load where one would run it, which is judged, longest. */
const SPAN_MS = 200;
const JUDGED_SPAN_MS = isSmoke ? 200 : 700;
const JUDGED_LOAD = 0.7;
const TASKS = 5;
const JUDGED_TASKS = 12;
/** Until the compiler has seen enough; calls that come one by one run other code than those of callers in step. */
const WARM = isSmoke ? { closedMs: 100, openMs: 100 } : { closedMs: 300, openMs: 1_500 };
const WARM_PER_SECOND = 3_000;
const MOST_MS = isSmoke ? 100 : 500;

const label = (share: number): string => `${Math.round(100 * share)} %`;
const points = sizesMs.flatMap((cpuMs) => loads.map((share): LatencyPoint => ({ cpuMs, load: label(share) })));

/** At most, from callers that wait for theirs. */
async function throughput({ drive }: Contender, cpuMs: number, leastMs: number): Promise<number> {
  const startedAt = performance.now();
  let tasks = 0;
  function* items() {
    for (; performance.now() - startedAt < leastMs; tasks++) yield { key, rounds: Math.round(cpuMs * roundsPerMs) };
  }
  await drive(items(), 16 * THREADS);
  return tasks / ((performance.now() - startedAt) / 1_000);
}

const where = { port, threads: THREADS };
const contenders = await openAll([
  { name: "redthread run()", open: () => redthread(where) },
  { name: "piscina tuned + global ioredis", open: () => piscinaTuned(where) },
  { name: "main thread as proxy", open: () => proxy(where) },
]);
for (const contender of contenders) {
  await throughput(contender, 0.1, WARM.closedMs);
  const item = { key, rounds: Math.round(0.1 * roundsPerMs) };
  const call = (): Promise<void> => contender.drive([item], 1);
  await openLoop({ perSecond: WARM_PER_SECOND, durationMs: WARM.openMs, seed: round, call });
}
const most = new Map<number, number>();
for (const cpuMs of sizesMs) most.set(cpuMs, await throughput(contenders[1]!, cpuMs, MOST_MS));

const runs: Run[] = [];
async function measure({ name, drive }: Contender & Entrant, point: LatencyPoint): Promise<Record<string, never>> {
  const { cpuMs, load } = point;
  const share = loads.find((one) => label(one) === load)!;
  const perSecond = share * most.get(cpuMs)!;
  const item = { key, rounds: Math.round(cpuMs * roundsPerMs) };
  const [spanMs, tasks] = share === JUDGED_LOAD ? [JUDGED_SPAN_MS, JUDGED_TASKS] : [SPAN_MS, TASKS];
  const latencies = await openLoop({
    perSecond,
    durationMs: Math.max(spanMs, (1_000 * tasks) / perSecond),
    seed: round, // all meet the same crowd, and another one in the next round: one crowd's worst rush would be the p99
    call: () => drive([item], 1),
  });
  runs.push({ contender: name, point, offered: perSecond, latenciesMs: latencies.map((ms) => Number(ms.toFixed(3))) });
  return {};
}
await interleave({ points, contenders, rounds: 1, firstRound: round, measure }, options);
console.log(JSON.stringify(runs));
for (const { close } of contenders) await close();
