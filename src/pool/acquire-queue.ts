import { Deadlines, type Expiry, monotonic } from "../core/clock.js";
import { type Deferred, deferred, onAbort } from "../core/waiting.js";
import { Fifo } from "../core/fifo.js";

interface Waiter<V> extends Deferred<V> {
  /** On the pool's clock. */
  readonly since: number;
  readonly dueAt: number;
  hasLeft: boolean;
}

export interface AcquireQueueOptions {
  /** The most that each waiter waits. */
  readonly ms: number;
  readonly now: () => number;
  /**
   * Makes the error for a waiter whose time is over. `ahead` is the number of waiters before it; the waiter itself is
   * still counted in `size`.
   */
  readonly onExpiry: (ahead: number, waitedMs: number) => Error;
}

/** The callers that wait for a client of the pool, the longest waiting first. */
export class AcquireQueue<V> {
  readonly #options: AcquireQueueOptions;
  /**
   * A waiter that leaves early stays in here until it is the first. This is no Set because of the garbage collector:
   * when a Set outgrows its table, the old table refers to the new one. Once an old table is long-lived, every waiter
   * that comes later is kept alive with it.
   */
  readonly #queue = new Fifo<Waiter<V>>();
  #size = 0;
  readonly #deadlines: Deadlines;

  constructor(options: AcquireQueueOptions) {
    this.#options = options;
    this.#deadlines = new Deadlines({
      graceMs: options.ms,
      isRef: true,
      expire: (expiry) => this.#expire(expiry),
    });
  }

  get size(): number {
    return this.#size;
  }

  /** Queues the caller before it returns. Rejects when the time is over, or on abort with the signal's reason. */
  wait(signal?: AbortSignal): Promise<V> {
    const { ms, now } = this.#options;
    const dueAt = monotonic() + ms;
    const { promise, resolve, reject } = deferred<V>(); // a spread would cost more than all the rest
    const waiter: Waiter<V> = { promise, resolve, reject, since: now(), dueAt, hasLeft: false };
    this.#queue.push(waiter);
    this.#size++;
    this.#deadlines.arm(dueAt);
    if (!signal) return promise;
    // `abortable` would lose the client if the abort came after `serve`, but before the caller's promise has settled.
    const unlisten = onAbort(signal, () => this.#reject(waiter, signal.reason));
    return promise.finally(unlisten);
  }

  /** Gives `value` to the first waiter; false if there is none. */
  serve(value: V): boolean {
    const waiter = this.#queue.peek();
    if (!waiter) return false;
    this.#leave(waiter);
    waiter.resolve(value);
    return true;
  }

  rejectAll(reason: unknown): void {
    for (const waiter of this.#waiting()) this.#reject(waiter, reason);
  }

  #reject(waiter: Waiter<V>, reason: unknown): void {
    this.#leave(waiter);
    waiter.reject(reason);
  }

  #leave(waiter: Waiter<V>): void {
    if (waiter.hasLeft) return; // it was served, and its signal was aborted afterwards
    waiter.hasLeft = true;
    while (this.#queue.peek()?.hasLeft) this.#queue.shift();
    if (--this.#size === 0) this.#deadlines.stop(); // the timer would keep the process alive for nothing
  }

  #waiting(): Waiter<V>[] {
    return [...this.#queue].filter(({ hasLeft }) => !hasLeft);
  }

  /** All waiters have the same time limit, so the first one is due first. */
  #expire({ cutoff }: Expiry): number {
    const { now, onExpiry } = this.#options;
    const due = this.#waiting().filter(({ dueAt }) => dueAt <= cutoff);
    const errors = due.map(({ since }, ahead) => onExpiry(ahead, now() - since));
    due.forEach((waiter, at) => this.#reject(waiter, errors[at]));
    return this.#queue.peek()?.dueAt ?? Infinity;
  }
}
