// Clocks, timers, deadlines and random delays. Promises that wait for something are in waiting.ts.
import process from "node:process"; // the global of this name is an accessor, and a fourth of the cost of a look at the clock

/** A timer that fires this late shows that the loop was blocked: a reply may have arrived that nobody has read yet. */
export const BLOCKED_MS = 20;
/** The grace of waits that bound a shutdown: enough to read what arrived while the loop was blocked. */
export const UNREAD_MS = 100;
/** `setTimeout` fires after 1 ms when it is given more than this. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Milliseconds on a clock that never steps back. */
export function monotonic(): number {
  return performance.now();
}

/** Whole ms on the one clock that all threads share, because performance.now() starts anew in each. It wraps every 50 days. */
export function sharedClock(): number {
  const time = process.hrtime(); // not destructured: an iterator would take a third of the time of a call
  return (time[0] * 1_000 + time[1] / 1e6) | 0;
}

/** Delays are random so that clients which lost a server together do not return together. */
export function randomBetween(min: number, max: number, random: () => number = Math.random): number {
  return min + random() * (max - min);
}

/** The delay after the n-th failure in a row: random up to a ceiling that doubles with each failure. */
export function backoffMs(
  failures: number,
  { baseDelayMs, maxDelayMs }: { readonly baseDelayMs: number; readonly maxDelayMs: number },
  random?: () => number,
): number {
  return randomBetween(0, Math.min(maxDelayMs, baseDelayMs * 2 ** (failures - 1)), random);
}

/** Calls `fire` once after `ms` and tells it how late it is. Gives the function that cancels the timer. */
export function startTimer(ms: number, isRef: boolean, fire: (lateMs: number) => void): () => void {
  const due = monotonic() + ms;
  let timer: NodeJS.Timeout;
  const arm = (left: number): void => {
    timer = setTimeout(
      () => (left > MAX_TIMER_MS ? arm(left - MAX_TIMER_MS) : fire(monotonic() - due)),
      Math.min(left, MAX_TIMER_MS),
    );
    if (!isRef) timer.unref();
  };
  arm(ms);
  return () => clearTimeout(timer);
}

/** How a deadline came. */
export interface Expiry {
  /** Waits that were due until then have expired; later ones still have their own poll and grace to come. */
  readonly cutoff: number;
  /** When the timer first fired: at the deadline, or when the loop was free again. */
  readonly firedAt: number;
}

interface DeadlineOptions {
  readonly ms: number;
  /** The most that is granted once after a blocked loop. */
  readonly graceMs: number;
  /** Whether it keeps the process alive. */
  readonly isRef: boolean;
}

/**
 * Calls `expire` after `ms`, but never before the loop has polled its sockets once more, because timers run first. If the
 * loop was blocked when the time came, or in that very poll, the reply may lie in a socket and take several polls to read:
 * the lost time is granted again, up to `graceMs`, once. Every wait for the network ends here. Gives the function that
 * cancels the deadline.
 */
export function startDeadline({ ms, graceMs, isRef }: DeadlineOptions, expire: (expiry: Expiry) => void): () => void {
  let cancel: () => void;
  let firedAt: number | undefined;
  const start = (leftMs: number): void => {
    cancel = startTimer(leftMs, isRef, (lateMs) => {
      const isExtended = firedAt !== undefined;
      const now = monotonic();
      const first = (firedAt ??= now);
      const immediate = setImmediate(() => {
        const blockedMs = lateMs + monotonic() - now;
        if (!isExtended && blockedMs > BLOCKED_MS) return start(Math.min(blockedMs, graceMs));
        expire({ cutoff: lateMs > BLOCKED_MS ? now - lateMs : now, firedAt: first });
      });
      cancel = () => clearImmediate(immediate);
    });
  };
  start(ms);
  return () => cancel();
}

interface DeadlinesOptions extends Omit<DeadlineOptions, "ms"> {
  /** Rejects the waits that are due. Returns when the next one is due, or Infinity if nothing is left. */
  readonly expire: (expiry: Expiry) => number;
}

/** One lag-aware timer for many deadlines. */
export class Deadlines {
  readonly #options: DeadlinesOptions;
  #cancel: (() => void) | undefined;
  #dueAt = Infinity;

  constructor(options: DeadlinesOptions) {
    this.#options = options;
  }

  /** Makes sure that the timer fires at `dueAt` (ms of the clock) or before. */
  arm(dueAt: number): void {
    if (dueAt >= this.#dueAt) return;
    this.#cancel?.();
    this.#dueAt = dueAt;
    const { graceMs, isRef, expire } = this.#options;
    const onExpired = (expiry: Expiry): void => {
      this.#dueAt = Infinity;
      this.arm(expire(expiry));
    };
    this.#cancel = startDeadline({ ms: dueAt - monotonic(), graceMs, isRef }, onExpired);
  }

  stop(): void {
    this.#cancel?.();
    this.#dueAt = Infinity;
  }
}
