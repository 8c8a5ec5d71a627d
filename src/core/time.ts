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
  return race(work, (reject) => startDeadline({ ms, graceMs, isRef: true }, () => reject(onTimeout())));
}

/** The outcome of `work`, or a rejection with `signal.reason` as soon as it is aborted. The work itself goes on. */
export function abortable<T>(work: PromiseLike<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return Promise.resolve(work);
  // An abort that is past rejects in this turn: work which is done already does not hide it.
  return race(work, (reject) => onAbort(signal, () => reject(signal.reason)));
}

const listeners = new WeakMap<AbortSignal, Listeners>();

interface Listeners {
  readonly calls: Set<() => void>;
  readonly stop: () => void;
}

/** Calls `abort` once, at once if that is past; returns the way to call it off. One listener for all: Node warns at the eleventh. */
export function onAbort(signal: AbortSignal, abort: () => void): () => void {
  if (signal.aborted) {
    abort();
    return noop;
  }
  const { calls, stop } = listeners.get(signal) ?? listen(signal);
  const call = (): void => abort(); // its own, also if two give the same function
  calls.add(call);
  return () => {
    // Node keeps a signal that follows others for as long as it has a listener.
    if (calls.delete(call) && calls.size === 0) stop();
  };
}

function listen(signal: AbortSignal): Listeners {
  const calls = new Set<() => void>();
  const onEvent = (): void => calls.forEach((abort) => abort());
  const stop = (): void => {
    listeners.delete(signal);
    signal.removeEventListener("abort", onEvent);
  };
  signal.addEventListener("abort", onEvent, { once: true });
  const made = { calls, stop };
  listeners.set(signal, made);
  return made;
}

interface Settling<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
}

/** Settles as `work` does, or is rejected by what `start` begins, and gives the way to call off. */
function race<T>(work: PromiseLike<T>, start: (reject: Settling<T>["reject"]) => () => void): Promise<T> {
  return new Promise((resolve, reject) => {
    let stop = noop;
    const settling: Settling<T> = {
      resolve: (value) => (stop(), resolve(value)),
      reject: (reason) => (stop(), reject(reason)),
    };
    const all = callersOf(work).add(settling);
    stop = start((reason) => {
      all.delete(settling);
      reject(reason);
    });
  });
}

// oxlint-disable-next-line typescript/no-explicit-any -- each set has the type of its own promise
const callers = new WeakMap<PromiseLike<unknown>, Set<Settling<any>>>();

/** They share one reaction: a promise keeps each that it is given until it settles, also when the caller has given up. */
function callersOf<T>(work: PromiseLike<T>): Set<Settling<T>> {
  const known: Set<Settling<T>> | undefined = callers.get(work);
  if (known) return known;
  const all = new Set<Settling<T>>();
  const settle = (visit: (one: Settling<T>) => void): void => {
    callers.delete(work);
    all.forEach(visit);
  };
  callers.set(work, all);
  work.then(
    (value) => settle((one) => one.resolve(value)),
    (reason: unknown) => settle((one) => one.reject(reason)),
  );
  return all;
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
