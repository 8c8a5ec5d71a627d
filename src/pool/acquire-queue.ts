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
  /** Each waits at most for this. */
  readonly ms: number;
  readonly now: () => number;
  /** The rejection of one that has waited in vain; `ahead` have waited longer. It is still counted in `size`. */
  readonly onExpiry: (ahead: number, waitedMs: number) => Error;
}

/** Those who wait for a pool, the longest first. */
export class AcquireQueue<V> {
  readonly #options: AcquireQueueOptions;
  /**
   * Those who left out of turn stay until they are the first. Not a Set: each table that it outgrows refers to the next one,
   * and once one of them is long-lived all that ever waited outlive the garbage of the moment.
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

  /** Queues in this turn. Rejects when its time is over, and on abort with the signal's reason. */
  wait(signal?: AbortSignal): Promise<V> {
    const { ms, now } = this.#options;
    const dueAt = monotonic() + ms;
    const { promise, resolve, reject } = deferred<V>(); // spread, it would cost more than all the rest
    const waiter: Waiter<V> = { promise, resolve, reject, since: now(), dueAt, hasLeft: false };
    this.#queue.push(waiter);
    this.#size++;
    this.#deadlines.arm(dueAt);
    if (!signal) return promise;
    // Not `abortable`: an abort between being served and hearing of it would lose what was served.
    const unlisten = onAbort(signal, () => this.#dismiss(waiter, signal.reason));
    return promise.finally(unlisten);
  }

  /** Gives `value` to whoever waits longest; false if nobody does. */
  serve(value: V): boolean {
    const waiter = this.#queue.peek();
    if (!waiter) return false;
    this.#leave(waiter);
    waiter.resolve(value);
    return true;
  }

  dismissAll(reason: unknown): void {
    for (const waiter of this.#waiting()) this.#dismiss(waiter, reason);
  }

  #dismiss(waiter: Waiter<V>, reason: unknown): void {
    this.#leave(waiter);
    waiter.reject(reason);
  }

  #leave(waiter: Waiter<V>): void {
    if (waiter.hasLeft) return; // aborted between being served and hearing of it
    waiter.hasLeft = true;
    while (this.#queue.peek()?.hasLeft) this.#queue.shift();
    if (--this.#size === 0) this.#deadlines.stop(); // it would keep the process alive for nobody
  }

  #waiting(): Waiter<V>[] {
    return [...this.#queue].filter(({ hasLeft }) => !hasLeft);
  }

  /** All wait for the same time: who came first is due first. */
  #expire({ cutoff }: Expiry): number {
    const { now, onExpiry } = this.#options;
    const due = this.#waiting().filter(({ dueAt }) => dueAt <= cutoff);
    const errors = due.map(({ since }, ahead) => onExpiry(ahead, now() - since));
    due.forEach((waiter, at) => this.#dismiss(waiter, errors[at]));
    const [next] = this.#waiting();
    return next?.dueAt ?? Infinity;
  }
}
