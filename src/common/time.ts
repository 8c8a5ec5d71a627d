/** A timer this late means the loop was blocked: what we wait for may be here already, unread. */
export const BLOCKED_MS = 20;
/** What takes to be read that was there before a blocked loop was free: the grace of waits that bound a shutdown. */
export const UNREAD_MS = 100;
/** `setTimeout` fires after 1 ms when asked for more than this. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Milliseconds on a clock that never steps back. */
export function monotonic(): number {
  return performance.now();
}

/** Whole ms on the one clock that all threads share: performance.now() starts anew in each. It wraps every 50 days. */
export function sharedClock(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return (seconds * 1_000 + nanoseconds / 1e6) | 0;
}

/** Resolves after `ms`; rejects at once with `signal.reason` when aborted. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  let cancel = noop;
  const slept = new Promise<void>((resolve) => {
    cancel = startTimer(ms, true, () => resolve());
  });
  await abortable(slept, signal).finally(() => cancel());
}

/** How a deadline came. */
export interface Expiry {
  /** What was due until then is due; what came later has its own poll and grace still to come. */
  readonly cutoff: number;
  /** When the timer first fired: at the deadline, or when the loop was unblocked. */
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
 * Every wait for the network ends here. Calls `expire` after `ms`, but never before the loop has polled its sockets
 * once more: timers run first. If the loop was blocked when the time came, or in that very poll, what we wait for may
 * lie in a socket and take several polls to read: the time that was lost is granted again, up to `graceMs`, once.
 * Returns the way to call it off.
 */
export function startDeadline({ ms, graceMs, isRef }: DeadlineOptions, expire: (expiry: Expiry) => void): () => void {
  let cancel = noop;
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

/**
 * The outcome of `work`, or a rejection with `onTimeout()` after `ms`, by a lag-aware deadline. The work itself goes on:
 * whoever started it ends it. Its later rejection is not unhandled. `graceMs` is the most it waits on after a blocked loop.
 */
export function within<T>(work: PromiseLike<T>, ms: number, onTimeout: () => Error, graceMs: number = ms): Promise<T> {
  let cancel = noop;
  const expired = new Promise<never>((_, reject) => {
    cancel = startDeadline({ ms, graceMs, isRef: true }, () => reject(onTimeout()));
  });
  return Promise.race([work, expired]).finally(() => cancel());
}

/** The outcome of `work`, or a rejection with `signal.reason` as soon as it is aborted. The work itself goes on. */
export function abortable<T>(work: PromiseLike<T>, signal?: AbortSignal): Promise<T> {
  let unlisten = noop;
  const aborted = new Promise<never>((_, reject) => {
    if (!signal) return;
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) return abort();
    signal.addEventListener("abort", abort, { once: true });
    unlisten = () => signal.removeEventListener("abort", abort);
  });
  // First, so that work which is done already does not hide the abort.
  return Promise.race([aborted, work]).finally(() => unlisten());
}

/** Calls `fire` once after `ms`, telling it how late it is; returns the way to call it off. */
function startTimer(ms: number, isRef: boolean, fire: (lateMs: number) => void): () => void {
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

function noop(): void {}
