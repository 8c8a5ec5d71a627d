import { type Expiry, monotonic, startDeadline } from "./time.js";

export interface DeadlinesOptions {
  /** Rejects what is due; returns when the next one is due, Infinity if nothing is left. */
  readonly expire: (expiry: Expiry) => number;
  /** The most that is granted after a blocked loop, in ms. */
  readonly graceMs: number;
  /** Whether the timer keeps the process alive. */
  readonly isRef: boolean;
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
