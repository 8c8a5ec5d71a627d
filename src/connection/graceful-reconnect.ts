import { monotonic } from "../core/clock.js";

export interface GracefulReconnectOptions {
  /** The longest that what is under way is waited for. */
  readonly patienceMs: number;
  /** Whether nobody waits for an answer on the connection any more. */
  readonly isIdle: () => boolean;
  /** Ends the connection, and so has it made anew. */
  readonly replace: () => void;
  /** The connection stays after all: what was held meanwhile may go. */
  readonly keep: () => void;
}

const MIN_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 10_000;

/**
 * Replaces a connection that leads to the wrong server without harm to what is under way on it: nothing new is written,
 * and the last answer ends it. Whoever keeps asking, as one does who writes to a replica on purpose, is heard once a
 * second, then less often, down to every ten seconds.
 */
export class GracefulReconnect {
  readonly #options: GracefulReconnectOptions;
  #timer: NodeJS.Timeout | undefined;
  #askedAt = -Infinity;
  #pauseMs = 0;

  constructor(options: GracefulReconnectOptions) {
    this.#options = options;
  }

  /** While it is, nothing new may be written. */
  get isPending(): boolean {
    return this.#timer !== undefined;
  }

  /** False when it is under way already, or was asked for too recently. */
  request(): boolean {
    const sinceMs = monotonic() - this.#askedAt;
    if (this.isPending || sinceMs < this.#pauseMs) return false;
    this.#pauseMs = sinceMs > 2 * MAX_PAUSE_MS ? MIN_PAUSE_MS : Math.min(2 * this.#pauseMs, MAX_PAUSE_MS);
    this.#askedAt = monotonic();
    this.#timer = setTimeout(() => this.#lostPatience(), this.#options.patienceMs).unref();
    return true;
  }

  /** Something was received: was it the last? */
  look(): void {
    if (!this.isPending || !this.#options.isIdle()) return;
    this.stop();
    this.#options.replace();
  }

  /** The connection is gone, or about to be. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** A blocking command can hold the line for as long as it likes; the next refused write asks again. */
  #lostPatience(): void {
    this.stop();
    if (this.#options.isIdle()) this.#options.replace();
    else this.#options.keep();
  }
}
