/** How callers behave while something is measured. */
import { seeded } from "../../test/support/seeded.js";
import { digest } from "../contenders/work.js";
import { quantile } from "./interleave.js";

export interface Rate extends Record<string, number> {
  readonly tasksPerSecond: number;
  /** µs, of all threads of the process. */
  readonly cpuPerTask: number;
}

export interface ClosedLoop<Input> {
  /** Each waits for its task before it takes the next. */
  readonly callers: number;
  /** The time before the measurement, in which caches, cores and callers settle. */
  readonly leadMs: number;
  /** At least so long, and at least a task for each caller. */
  readonly ms: number;
  readonly next: () => Input;
  readonly drive: (inputs: Iterable<Input>, callers: number) => Promise<void>;
}

export interface OpenLoop {
  readonly perSecond: number;
  readonly ms: number;
  /** Seeds the times of arrival. */
  readonly seed: number;
  readonly call: () => Promise<unknown>;
}

/**
 * Tasks per second between two moments at which a task is taken. The tasks that run at either moment cancel out. The
 * first tasks of callers that start all at once do not count, nor do the last ones, when few callers are left.
 */
export async function closedLoop<Input>({ callers, leadMs, ms, next, drive }: ClosedLoop<Input>): Promise<Rate> {
  let tasks = 0;
  const mark = () => ({ tasks, ms: performance.now(), cpu: cpuMicros() });
  const startedAt = performance.now();
  let from: ReturnType<typeof mark> | undefined;
  let to: ReturnType<typeof mark> | undefined;
  function* inputs(): Generator<Input> {
    while (!to) {
      const now = performance.now();
      if (from && tasks - from.tasks >= callers && now >= from.ms + ms) to = mark();
      else {
        if (!from && tasks >= callers && now >= startedAt + leadMs) from = mark();
        tasks++;
        yield next();
      }
    }
  }
  await drive(inputs(), callers);
  const count = to!.tasks - from!.tasks;
  return { tasksPerSecond: (1_000 * count) / (to!.ms - from!.ms), cpuPerTask: (to!.cpu - from!.cpu) / count };
}

/**
 * Latencies in ms of calls that arrive at a rate, whether earlier ones are done or not. Each is counted from the time
 * when it was due, so that a system cannot hide a delay by keeping its callers waiting. The gaps are exponential, and
 * the same seed gives the same gaps, so that all contenders meet the same arrivals.
 */
export async function openLoop({ perSecond, ms, seed, call }: OpenLoop): Promise<number[]> {
  const random = seeded(seed);
  const latencies: number[] = [];
  const calls: Promise<void>[] = [];
  const startedAt = performance.now();
  const one = async (dueAt: number): Promise<void> => {
    await call();
    latencies.push(performance.now() - dueAt);
  };
  const gapMs = (): number => (-Math.log(1 - random()) * 1_000) / perSecond;
  let dueAt = startedAt + gapMs();
  while (dueAt < startedAt + ms) {
    // A busy loop would take a core from the contender.
    await new Promise((resolve) => setTimeout(resolve, dueAt - performance.now()));
    for (; dueAt <= performance.now() && dueAt < startedAt + ms; dueAt += gapMs()) calls.push(one(dueAt));
  }
  await Promise.all(calls);
  return latencies;
}

/**
 * How many rounds of `digest` keep this machine's CPU busy for `cpuMs`. CPU time decides: by the clock, two contenders
 * for one core would both be done at once.
 */
export function roundsOf(cpuMs: number): number {
  const rounds = 20_000;
  const micros = Array.from({ length: 6 }, () => {
    const before = cpuMicros();
    digest(Buffer.alloc(32), rounds);
    return cpuMicros() - before;
  });
  return Math.max(1, Math.round((rounds * cpuMs * 1_000) / quantile(micros.slice(1), 0.5))); // the first one warms
}

/** CPU time of all threads of this process. */
export function cpuMicros(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}
