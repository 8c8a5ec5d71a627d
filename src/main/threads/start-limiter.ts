import { availableCores } from "../../config/cores.js";
import { type Deferred, deferred } from "../../core/waiting.js";

const LOADS_PER_CORE = 2;
/** Who has not loaded by then waits for something else than CPU: what its modules, or its `setup`, ask for. */
const LOADING_MS = 1_000;

/**
 * Lets threads load a few at a time: loading takes CPU and little else, so more of them than that are no sooner there.
 * Sooner are those that go first; and an idle thread of Node 20 finishes its first garbage collection by posting itself
 * one step after another until V8's helpers have done their part, which get no processor when 32 threads do so at once.
 */
export class StartLimiter<T> {
  readonly #limit: number;
  readonly #loading = new Map<T, NodeJS.Timeout>();
  readonly #waiting = new Map<T, Deferred<void>>();

  constructor(limit: number = LOADS_PER_CORE * availableCores()) {
    this.#limit = limit;
  }

  /** Resolves when it may load; rejects if it is not to load any more. */
  turn(thread: T): Promise<void> {
    const turn = deferred();
    this.#waiting.set(thread, turn);
    this.#next();
    return turn.promise;
  }

  /** It has loaded, or has ended. */
  done(thread: T): void {
    clearTimeout(this.#loading.get(thread));
    if (this.#loading.delete(thread)) this.#next();
  }

  /** Nobody else loads. Returns those whose turn had not come. */
  stop(): T[] {
    const unborn = [...this.#waiting.keys()];
    for (const turn of this.#waiting.values()) turn.reject(new Error("it had not been started"));
    this.#waiting.clear();
    return unborn;
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
