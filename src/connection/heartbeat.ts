import { monotonic } from "../core/clock.js";

export interface HeartbeatOptions {
  readonly everyMs: number;
  /** When something was last received, on the monotonic clock. */
  readonly receivedAt: () => number;
  /** Nothing was received for `everyMs`: find out whether the peer is still there. */
  readonly probe: () => void;
}

/** Notices a connection that nobody uses and whose peer went without a word: no FIN, no RST, only silence. */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  start(): void {
    this.stop();
    this.#arm(this.#options.everyMs);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #arm(ms: number): void {
    this.#timer = setTimeout(() => this.#beat(), ms).unref();
  }

  #beat(): void {
    const { everyMs, receivedAt, probe } = this.#options;
    const leftMs = receivedAt() + everyMs - monotonic();
    if (leftMs > 0) return this.#arm(leftMs);
    this.#arm(everyMs);
    probe();
  }
}
