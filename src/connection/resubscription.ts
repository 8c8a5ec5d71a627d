import type { AskedChannel, OnResubscribed } from "../commands/asked-channels.js";
import type { CommandQueue } from "../commands/command-queue.js";
import type { Handle } from "../commands/handle.js";
import type { RetryConfig } from "../config/options.js";
import type { Logger } from "../core/log.js";
import { isReplyError } from "../core/replies.js";
import { connRetry } from "../core/retry.js";

export interface ResubscriptionOptions {
  readonly commandQueue: CommandQueue;
  readonly retry: RetryConfig;
  readonly logger: Logger;
  /** Of the connection, in logs. */
  readonly name: string;
  /** Ends every wait. */
  readonly life: AbortSignal;
  readonly onResubscribed?: OnResubscribed | undefined;
}

/**
 * Brings the subscriptions back on each new connection, before it is told to be up. ioredis would ask once, would not
 * notice a refusal, and would spell binary names as text.
 */
export class Resubscription {
  readonly #handle: Handle;
  readonly #options: ResubscriptionOptions;
  #missing: readonly AskedChannel[] = [];
  #refusal: Error | undefined;

  constructor(handle: Handle, options: ResubscriptionOptions) {
    this.#handle = handle;
    this.#options = options;
  }

  /** The server has not refused any of them. */
  get isComplete(): boolean {
    return this.#missing.length === 0;
  }

  /** In the course of connecting. Rejects when the connection is lost; what is refused is asked for again, once it is up. */
  async restore(): Promise<void> {
    this.#missing = this.#options.commandQueue.channels.confirmed;
    await this.#ask();
  }

  /** The connection is up. */
  connected(): void {
    const { retry, logger, name, life: signal } = this.#options;
    const error = this.#refusal;
    if (this.isComplete || !error) return;
    const { stream } = this.#handle;
    const again = async (): Promise<void> => {
      if (stream !== this.#handle.stream || !stream.writable) return; // the next connection asks for all of them
      await this.#ask().catch(() => {}); // lost
      if (stream === this.#handle.stream && this.#refusal) throw this.#refusal;
    };
    const options = { ...retry, deadlineMs: Infinity, attempts: Infinity, isRetryable: isReplyError, logger, signal };
    connRetry("Redis", `subscribing again ${name}`, options)(again)().catch(() => {}); // closed
    process.nextTick(() => this.#handle.emit("error", error)); // a listener that throws is not to end this connect
  }

  async #ask(): Promise<void> {
    const { channels } = this.#options.commandQueue;
    const missing = this.#missing.filter((asked) => channels.has(asked));
    const answers = await Promise.allSettled(missing.map((asked) => this.#subscribe(asked)));
    const errors = answers.map((answer) => (answer.status === "rejected" ? (answer.reason as Error) : undefined));
    const lost = errors.find((error) => error && !isReplyError(error));
    if (lost) throw lost;
    this.#missing = missing.filter((_, i) => errors[i]);
    this.#refusal = errors.find((error) => error);
  }

  /** One by one: a refusal of one is not that of all. */
  async #subscribe(asked: AskedChannel): Promise<void> {
    const { onResubscribed, commandQueue } = this.#options;
    await this.#handle.subscribeAgain(asked, () => {
      if (commandQueue.channels.has(asked)) onResubscribed?.(asked);
      else this.#handle.giveUp(asked);
    });
  }
}
