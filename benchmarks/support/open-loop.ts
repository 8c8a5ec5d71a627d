export interface OpenLoop {
  readonly perSecond: number;
  readonly durationMs: number;
  /** Of the arrivals. */
  readonly seed: number;
  readonly call: () => Promise<unknown>;
}

/**
 * Latencies in ms of calls that come when they come, whether the one before is done or not. Each counts from the time
 * it was due: a system that keeps its callers waiting cannot keep them from being counted. Gaps are exponential, and
 * the same for the same seed, so that contenders meet the same crowd.
 */
export async function openLoop({ perSecond, durationMs, seed, call }: OpenLoop): Promise<number[]> {
  const random = mulberry32(seed);
  const latencies: number[] = [];
  const calls: Promise<void>[] = [];
  const startedAt = performance.now();
  const one = async (dueAt: number): Promise<void> => {
    await call();
    latencies.push(performance.now() - dueAt);
  };
  const gapMs = (): number => (-Math.log(1 - random()) * 1_000) / perSecond;
  let dueAt = startedAt + gapMs();
  while (dueAt < startedAt + durationMs) {
    // Not a busy loop: it would take a core from those who are measured.
    await new Promise((resolve) => setTimeout(resolve, dueAt - performance.now()));
    for (; dueAt <= performance.now() && dueAt < startedAt + durationMs; dueAt += gapMs()) calls.push(one(dueAt));
  }
  await Promise.all(calls);
  return latencies;
}

/** A small generator with a seed. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
