import { within } from "./time.js";

export interface Deferred<V> {
  readonly promise: Promise<V>;
  resolve(value: V): void;
  reject(reason: unknown): void;
}

export function deferred<V = void>(): Deferred<V> {
  let resolve!: (value: V) => void;
  let reject!: (reason: unknown) => void;
  const promise = new Promise<V>((onValue, onError) => {
    resolve = onValue;
    reject = onError;
  });
  return { promise, resolve, reject };
}

/** Those who wait for a pool, the longest first. */
export class Waiters<V> {
  readonly #queue = new Set<Deferred<V>>();

  get size(): number {
    return this.#queue.size;
  }

  /** Queues in this turn. After `ms` rejects with `onExpiry(ahead)`, ahead being how many waited longer; on abort with the signal's reason. */
  async wait(ms: number, onExpiry: (ahead: number) => Error, signal?: AbortSignal): Promise<V> {
    const waiter = deferred<V>();
    const expire = (): Error => {
      const error = onExpiry([...this.#queue].indexOf(waiter));
      this.#queue.delete(waiter);
      return error;
    };
    // Not `abortable`: an abort between being served and hearing of it would lose what was served.
    const abort = (): void => this.#dismiss(waiter, signal?.reason);
    this.#queue.add(waiter);
    signal?.addEventListener("abort", abort, { once: true });
    try {
      return await within(waiter.promise, ms, expire);
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Gives `value` to whoever waits longest; false if nobody does. */
  serve(value: V): boolean {
    const [waiter] = this.#queue;
    if (!waiter) return false;
    this.#queue.delete(waiter);
    waiter.resolve(value);
    return true;
  }

  dismissAll(reason: unknown): void {
    for (const waiter of this.#queue) this.#dismiss(waiter, reason);
  }

  #dismiss(waiter: Deferred<V>, reason: unknown): void {
    this.#queue.delete(waiter);
    waiter.reject(reason);
  }
}
