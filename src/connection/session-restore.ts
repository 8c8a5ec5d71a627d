import type { AskedChannel } from "../commands/asked-channels.js";
import { isReplyError, replyCode } from "../core/replies.js";
import { connRetry } from "../core/retry.js";
import type { ClientContext } from "./client-context.js";

/**
 * Restores subscriptions and MONITOR on each new connection. Subscriptions are back before the connection counts as
 * connected. ioredis would ask once, would not notice a refusal, and would spell binary names as text.
 */
export class SessionRestore {
  readonly #client: ClientContext;
  #missing: readonly AskedChannel[] = [];
  #refusal: Error | undefined;

  constructor(client: ClientContext) {
    this.#client = client;
  }

  /** The server has not refused any subscription. */
  get isComplete(): boolean {
    return this.#missing.length === 0;
  }

  /** Subscribes again while connecting. Rejects when the connection is lost; refused subscriptions are repeated by `connected`. */
  async subscribe(): Promise<void> {
    this.#missing = this.#client.commandQueue.channels.confirmed;
    await this.#subscribeMissing();
  }

  /** The connection is up. */
  connected(): void {
    void this.#monitor();
    const error = this.#refusal;
    if (this.isComplete || !error) return;
    const { options, redis, life } = this.#client;
    const { stream } = redis;
    const again = async (): Promise<void> => {
      if (stream !== redis.stream || !stream.writable) return; // the next connection subscribes to all of them
      await this.#subscribeMissing().catch(() => {}); // the connection is lost
      if (stream === redis.stream && this.#refusal) throw this.#refusal;
    };
    const { retry, logger, name } = options;
    const endless = { deadlineMs: Infinity, attempts: Infinity, isRetryable: isReplyError, signal: life };
    connRetry("Redis", `subscribing again ${name}`, { ...retry, logger, ...endless })(again)().catch(() => {}); // closed
    process.nextTick(() => redis.emit("error", error)); // a listener that throws must not end this connect
  }

  async #subscribeMissing(): Promise<void> {
    const { channels } = this.#client.commandQueue;
    const missing = this.#missing.filter((asked) => channels.has(asked));
    const answers = await Promise.allSettled(missing.map((asked) => this.#subscribeTo(asked)));
    const errors = answers.map((answer) => (answer.status === "rejected" ? (answer.reason as Error) : undefined));
    const lost = errors.find((error) => error && !isReplyError(error));
    if (lost) throw lost;
    this.#missing = missing.filter((_, i) => errors[i]);
    this.#refusal = errors.find((error) => error);
  }

  /** One command for each channel, because the refusal of one channel must not refuse the others. */
  async #subscribeTo(asked: AskedChannel): Promise<void> {
    const { redis, commandQueue, options } = this.#client;
    await redis.subscribeAgain(asked, () => {
      if (commandQueue.channels.has(asked)) options.onResubscribed?.(asked);
      else redis.giveUp(asked);
    });
  }

  /** Nobody waits for the reply: a refusal is emitted as an error event. */
  async #monitor(): Promise<void> {
    const { options, redis, commandQueue } = this.#client;
    if (!commandQueue.session.isMonitoring) return;
    try {
      await redis.monitorAgain();
    } catch (error) {
      if (!isReplyError(error)) return; // lost once more: the next connection asks again
      commandQueue.session.monitoringEnded();
      options.logger.warn("MONITOR was refused after a reconnect", { name: options.name, code: replyCode(error) });
      redis.emit("error", error);
    }
  }
}
