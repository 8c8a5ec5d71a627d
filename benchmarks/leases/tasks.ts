import { withLock } from "redthread/worker";
import { wayOf } from "./ways.js";

export interface Locking {
  readonly contender: string;
  readonly key: string;
  readonly ttlMs: number;
}

export interface Cycling extends Locking {
  readonly ms: number;
  /** So many tasks ask for the lock at the same moment, and meet again when all have had it. Absent: each asks again at once. */
  readonly together?: number | undefined;
}

export interface Cycles {
  /** ms, of each time that the lock was acquired and released. */
  readonly samples: readonly number[];
  readonly startedAt: number;
  readonly endedAt: number;
}

/** Acquires and releases the lock for `ms`, as often as it can. */
export async function cycle({ ms, together, ...wanted }: Cycling): Promise<Cycles> {
  const locked = await wayOf(wanted.contender);
  const samples: number[] = [];
  const startedAt = performance.now();
  let endedAt = startedAt;
  const isOver = (): boolean => endedAt >= startedAt + ms;
  while (together === undefined ? !isOver() : await meet(wanted.key, together, isOver)) {
    const from = performance.now();
    await locked({ ...wanted, waits: true }, nothing);
    endedAt = performance.now();
    samples.push(endedAt - from);
  }
  return { samples, startedAt, endedAt };
}

interface Meeting {
  readonly everybody: Promise<boolean>;
  readonly resolve: (goesOn: boolean) => void;
  missing: number;
}

const meetings = new Map<string, Meeting>();

/** Waits for all tasks. The last one says for all of them whether they go on. */
function meet(key: string, count: number, isOver: () => boolean): Promise<boolean> {
  let meeting = meetings.get(key);
  if (!meeting) {
    let resolve!: Meeting["resolve"];
    const everybody = new Promise<boolean>((resolved) => (resolve = resolved));
    meetings.set(key, (meeting = { everybody, resolve, missing: count }));
  }
  if (--meeting.missing === 0) {
    meetings.delete(key);
    meeting.resolve(!isOver());
  }
  return meeting.everybody;
}

/** Nanoseconds of each `assertHeld()`. */
export async function assertHeld({ key, calls }: { key: string; calls: number }): Promise<number> {
  return withLock(key, {}, async (lock) => {
    const startedAt = process.hrtime.bigint();
    for (let i = 0; i < calls; i++) lock.assertHeld();
    return Number(process.hrtime.bigint() - startedAt) / calls;
  });
}

const ends: (() => void)[] = [];
let held: Promise<unknown> = Promise.resolve();

/** Acquires so many locks, and holds them until `releaseAll`. */
export async function holdAll({ contender, key, ttlMs, locks }: Locking & { locks: number }): Promise<void> {
  const locked = await wayOf(contender);
  const holding: Promise<void>[] = [];
  await Promise.all(
    Array.from({ length: locks }, (_, i) => {
      return new Promise<void>((resolve, reject) => {
        const until = locked({ key: `${key}:${i}`, ttlMs, waits: false }, async () => {
          resolve();
          await new Promise<void>((end) => ends.push(end));
        });
        holding.push(until);
        until.catch(reject);
      });
    }),
  );
  held = Promise.all(holding);
}

/** Rejects if one of them was lost and its library says so. */
export async function releaseAll(): Promise<void> {
  for (const end of ends.splice(0)) end();
  await held;
}

/** A time, in ms, on the clock that all threads share; undefined if the lock was never got. */
export type GotAt = number | undefined;

/** Computes for `ms` while it holds the lock: until when it believed that it held the lock. */
export async function compute({ contender, ms, ...wanted }: Locking & { ms: number }): Promise<number> {
  const locked = await wayOf(contender);
  let believedUntil: number | undefined;
  const computing = locked({ ...wanted, waits: false }, async (isHeld) => {
    const end = performance.now() + ms;
    while (performance.now() < end) if (isHeld()) believedUntil = now();
  });
  await computing.catch((error: unknown) => {
    if (believedUntil === undefined) throw error; // otherwise the loss is told afterwards, which is late
  });
  return believedUntil!;
}

/** Tries to get the lock for `ms`. */
export async function rival({
  contender,
  ms,
  everyMs,
  ...wanted
}: Locking & { ms: number; everyMs: number }): Promise<GotAt> {
  const locked = await wayOf(contender);
  const end = performance.now() + ms;
  while (performance.now() < end) {
    const gotAt = await locked({ ...wanted, waits: false }, async () => now()).catch(() => undefined);
    if (gotAt !== undefined) return gotAt;
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
  return undefined;
}

/** performance.now() begins anew in each thread. */
function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

async function nothing(): Promise<void> {}
