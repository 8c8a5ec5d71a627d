import { monotonic } from "../core/clock.js";
import type { ClientContext } from "./client-context.js";

const MIN_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 10_000;

/**
 * Replaces a connection that leads to the wrong server (a write was answered READONLY, or the sentinels name another
 * master) without harm to pending commands: new commands are held, and the last pending reply ends the connection. The
 * client then reconnects and writes what was held. A caller that writes to a replica on purpose causes a reconnect once
 * a second, then less often, down to one in ten seconds.
 */
export class GracefulReconnect {
  readonly #client: ClientContext;
  #timer: NodeJS.Timeout | undefined;
  #requestedAt = -Infinity;
  #pauseMs = 0;

  constructor(client: ClientContext) {
    this.#client = client;
  }

  /** Nothing new may be written meanwhile. */
  get isPending(): boolean {
    return this.#timer !== undefined;
  }

  /** Does nothing while a request is pending, or soon after the previous one. */
  request(reason: Error, code: string): void {
    const { options, life } = this.#client;
    const now = monotonic();
    const sinceMs = now - this.#requestedAt;
    if (!this.#client.isAlive() || life.aborted || this.isPending || sinceMs < this.#pauseMs) return;
    this.#pauseMs = sinceMs > 2 * MAX_PAUSE_MS ? MIN_PAUSE_MS : Math.min(2 * this.#pauseMs, MAX_PAUSE_MS);
    this.#requestedAt = now;
    const patienceMs = options.redis.commandTimeoutMs / 2; // the held commands keep the other half
    this.#timer = setTimeout(() => this.#losePatience(), patienceMs).unref();
    this.#client.lastError = reason;
    options.logger.warn("connection leads to the wrong server and is replaced", { name: options.name, code });
  }

  /** Ends the connection if the last pending reply has come. */
  look(): void {
    if (!this.isPending || this.#client.commandQueue.isAwaited) return;
    this.stop();
    this.#client.redis.stream.destroy();
  }

  /** Ends the request: the connection is gone or about to go, or it stays. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** The connection stays because a blocking command can hold it for any time; the next READONLY requests again. */
  #losePatience(): void {
    this.look();
    if (!this.isPending) return;
    this.stop();
    this.#client.release();
  }
}
