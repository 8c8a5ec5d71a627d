import { startDeadline, startTimer } from "./clock.js";

// Promises that wait: for a while, with a limit, or until a signal is aborted. Clocks and timers are in clock.ts.

export interface Deferred<V> {
  readonly promise: Promise<V>;
  readonly resolve: (value: V) => void;
  readonly reject: (reason: unknown) => void;
}

/** As `Promise.withResolvers()`, which Node 20 lacks. */
export function deferred<V = void>(): Deferred<V> {
  let resolve!: (value: V) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<V>((onValue, onError) => {
    resolve = onValue;
    reject = onError;
  });
  return { promise, resolve, reject };
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

/**
 * The outcome of `work`, or a rejection with `onTimeout()` after `ms`, by a lag-aware deadline. The work itself goes on
 * until its owner ends it, and its later rejection is not unhandled. `graceMs` is the most it waits on after a blocked loop.
 */
export function within<T>(work: PromiseLike<T>, ms: number, onTimeout: () => Error, graceMs: number = ms): Promise<T> {
  return race(work, (reject) => startDeadline({ ms, graceMs, isRef: true }, () => reject(onTimeout())));
}

/** Waits for `work`, at most for `ms`, and never rejects. Resolves to whether the work was done in time and without failure. */
export function waitAtMost(ms: number, work: PromiseLike<unknown>, graceMs: number = ms): Promise<boolean> {
  const waited = race(work, (reject) => startDeadline({ ms, graceMs, isRef: true }, reject));
  return waited.then(
    () => true,
    () => false,
  );
}

/** The outcome of `work`, or a rejection with `signal.reason` as soon as it is aborted. The work itself goes on. */
export function abortable<T>(work: PromiseLike<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return Promise.resolve(work);
  // An abort that is past rejects in this turn, even if the work is done already.
  return race(work, (reject) => onAbort(signal, () => reject(signal.reason)));
}

const listeners = new WeakMap<AbortSignal, Listeners>();

interface Listeners {
  readonly calls: Set<() => void>;
  readonly stop: () => void;
}

/**
 * Calls `abort` once, or at once if the signal is aborted already. Gives the function that takes the call back. All calls
 * share one listener, because Node warns at the eleventh.
 */
export function onAbort(signal: AbortSignal, abort: () => void): () => void {
  if (signal.aborted) {
    abort();
    return noop;
  }
  const { calls, stop } = listeners.get(signal) ?? listen(signal);
  const call = (): void => abort(); // a function of its own, even if two callers give the same one
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

type Settling<T> = Omit<Deferred<T>, "promise">;

/** Settles as `work` does, or is rejected by `start`, which gives the function that cancels what it began. */
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

/** They share one reaction, because a promise keeps each reaction until it settles, even if the caller has given up. */
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

function noop(): void {}
