import type { SharedClient } from "../common/cache.js";
import { errorCode, type Logger } from "../common/log.js";

export type OnMessage = (message: string, channel: string) => void;

export interface SubscribeOptions {
  /** Called after each reconnect: messages published meanwhile were missed. */
  readonly onGap?: () => void;
}

interface Subscriber {
  readonly onMessage: OnMessage;
  readonly onGap: (() => void) | undefined;
}

/** All subscriptions of the main thread, on one connection that restores them by itself. */
export class Subscriptions {
  readonly #client: SharedClient;
  readonly #logger: Logger;
  readonly #channels = new Map<string, Set<Subscriber>>();
  #listening = false;

  constructor(client: SharedClient, logger: Logger) {
    this.#client = client;
    this.#logger = logger;
  }

  /** Subscribed when it resolves; the function it gives ends this one subscription and is idempotent. */
  async subscribe(
    channel: string,
    onMessage: OnMessage,
    { onGap }: SubscribeOptions = {},
  ): Promise<() => Promise<void>> {
    const redis = await this.#client.get();
    if (!this.#listening) {
      this.#listening = true;
      redis.on("message", (heard: string, message: string) => this.#deliver(heard, message));
    }
    const subscriber: Subscriber = { onMessage, onGap };
    const others = this.#channels.get(channel);
    if (others) others.add(subscriber);
    else this.#channels.set(channel, new Set([subscriber]));
    try {
      await redis.subscribe(channel);
    } catch (error) {
      this.#drop(channel, subscriber);
      throw error;
    }
    return async () => {
      if (this.#drop(channel, subscriber) && this.#client.state === "connected") await redis.unsubscribe(channel);
    };
  }

  /** The connection is back, and with it every subscription. */
  reconnected(): void {
    for (const subscribers of this.#channels.values()) {
      for (const { onGap } of subscribers) if (onGap) this.#call(onGap);
    }
  }

  #deliver(channel: string, message: string): void {
    for (const { onMessage } of this.#channels.get(channel) ?? []) this.#call(() => onMessage(message, channel));
  }

  /** One listener's bug must not keep the message from the others. */
  #call(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.#logger.error("a subscriber threw", { code: errorCode(error) });
    }
  }

  /** True when the channel has no subscriber any more. */
  #drop(channel: string, subscriber: Subscriber): boolean {
    const subscribers = this.#channels.get(channel);
    if (!subscribers?.delete(subscriber) || subscribers.size > 0) return false;
    this.#channels.delete(channel);
    return true;
  }
}
