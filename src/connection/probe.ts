import type { CommandQueue } from "../commands/command-queue.js";
import type { Handle } from "../commands/handle.js";
import { isReplyError } from "../core/replies.js";
import { monotonic } from "../core/clock.js";
import { within } from "../core/waiting.js";
import { Heartbeat } from "./heartbeat.js";

export interface ProbeOptions {
  readonly commandQueue: CommandQueue;
  readonly commandTimeoutMs: number;
  readonly heartbeatMs: number;
  readonly isAlive: () => boolean;
  readonly onTimeout: () => Error;
}

/** Whether anybody is at the other end of a connection. One that does not answer is destroyed, and so replaced. */
export class Probe {
  readonly #handle: Handle;
  readonly #options: ProbeOptions;
  readonly heartbeat: Heartbeat;
  /** When something came last, on the monotonic clock. */
  receivedAt = 0;
  #checking: Promise<boolean> | undefined;

  constructor(handle: Handle, options: ProbeOptions) {
    this.#handle = handle;
    this.#options = options;
    this.heartbeat = new Heartbeat({
      everyMs: options.heartbeatMs,
      receivedAt: () => this.receivedAt,
      // What is under way has a deadline, whose end asks the same question.
      probe: () => {
        if (this.isQuiet) void this.check();
      },
    });
  }

  /** Nothing is under way that a PING could be behind, or become a part of. */
  get isQuiet(): boolean {
    return !this.#options.commandQueue.isBusy && !this.#swallowsPing;
  }

  /** Of a MULTI it would become a part, and its answer a line of MONITOR. */
  get #swallowsPing(): boolean {
    const { session } = this.#options.commandQueue;
    return session.inTransaction || session.isMonitoring;
  }

  /** Something has come. */
  received(): void {
    this.receivedAt = monotonic();
  }

  hasReceivedWithin(ms: number, now: number): boolean {
    return now - this.receivedAt <= ms;
  }

  /** Whether the peer answers a PING, or sends anything else, by the command timeout; concurrent callers share one. */
  check(): Promise<boolean> {
    return (this.#checking ??= this.ping().finally(() => (this.#checking = undefined)));
  }

  /** A command had no reply by its deadline: is anybody there? Behind an endless BLPOP a PING would learn nothing. */
  suspect(): void {
    if (!this.#options.commandQueue.isBlocked && !this.#swallowsPing) void this.check();
  }

  async ping(ms: number = this.#options.commandTimeoutMs): Promise<boolean> {
    const { isAlive, onTimeout } = this.#options;
    if (!isAlive()) return false;
    const { stream } = this.#handle;
    const askedAt = monotonic();
    try {
      await within(this.#handle.own("ping"), ms, onTimeout);
      return true;
    } catch (error) {
      if (isReplyError(error)) return true;
      // The PONG is behind a large reply, or a slow command: whoever sends anything is there.
      if (isAlive() && this.receivedAt > askedAt) return true;
      stream.destroy();
      return false;
    }
  }
}
