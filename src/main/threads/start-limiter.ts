import { availableCores } from "../../config/capacity.js";
import { type Deferred, deferred } from "../../core/waiting.js";

const LOADS_PER_CORE = 2;
/** A thread that has not loaded by then waits for something else than CPU, as for what its modules or its `setup` ask for. */
const LOADING_MS = 1_000;

/**
 * Lets threads load a few at a time. Loading takes CPU and little else, so that more at once would not be ready sooner, and
 * the first would be ready later. Besides, an idle thread of Node 20 finishes its first garbage collection by posting itself
 * one step after another until V8's helpers have done their part, and these get no processor when 32 threads do so at once.
 */
export class StartLimiter<T> {
  readonly #limit: number;
  readonly #loading = new Map<T, NodeJS.Timeout>();
  readonly #waiting = new Map<T, Deferred<void>>();

  constructor(limit: number = LOADS_PER_CORE * availableCores()) {
    this.#limit = limit;
  }

  /** Resolves when the thread may load. Rejects after `stop`. */
  turn(thread: T): Promise<void> {
    const turn = deferred();
    this.#waiting.set(thread, turn);
    this.#next();
    return turn.promise;
  }

  /** The thread has loaded, or has ended. */
  done(thread: T): void {
    clearTimeout(this.#loading.get(thread));
    if (this.#loading.delete(thread)) this.#next();
  }

  /** No other thread loads from now on. Returns the threads that had to wait. */
  stop(): T[] {
    const unstarted = [...this.#waiting.keys()];
    for (const turn of this.#waiting.values()) turn.reject(new Error("the thread had not been started"));
    this.#waiting.clear();
    return unstarted;
  }

  #next(): void {
    for (const [thread, turn] of this.#waiting) {
      if (this.#loading.size >= this.#limit) return;
      this.#waiting.delete(thread);
      this.#loading.set(thread, setTimeout(() => this.done(thread), LOADING_MS).unref());
      turn.resolve();
    }
  }
}
