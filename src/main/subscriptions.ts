import { AsyncResource } from "node:async_hooks";
import { types } from "node:util";
import type { SharedClient } from "../common/cache.js";
import { errorCode, type Logger } from "../common/log.js";

export type OnMessage = (message: string, channel: string) => void;

export interface SubscribeOptions {
  /**
   * The channel belongs to the shard of a Cluster that its name leads to, and hears only what is published by SPUBLISH.
   * Default false.
   */
  readonly sharded?: boolean;
  /** Called after each reconnect: messages published meanwhile were missed. */
  readonly onGap?: () => void;
}

interface Subscriber {
  readonly onMessage: OnMessage;
  readonly onGap: (() => void) | undefined;
}

type Channels = Map<string, Set<Subscriber>>;

/** All subscriptions of the main thread, on one connection that restores them by itself. */
export class Subscriptions {
  readonly #client: SharedClient;
  readonly #logger: Logger;
  readonly #keyPrefix: string;
  readonly #channels: Channels = new Map();
  readonly #sharded: Channels = new Map();
  #listening = false;

  /** A sharded channel is a key, and has the `keyPrefix`; a plain one has not. */
  constructor(client: SharedClient, logger: Logger, keyPrefix: string) {
    this.#client = client;
    this.#logger = logger;
    this.#keyPrefix = keyPrefix;
  }

  /** Subscribed when it resolves; the function it gives ends this one subscription and is idempotent. */
  async subscribe(
    channel: string,
    onMessage: OnMessage,
    { sharded = false, onGap }: SubscribeOptions = {},
  ): Promise<() => Promise<void>> {
    const redis = await this.#client.get();
    if (!this.#listening) {
      this.#listening = true;
      redis.on("message", (heard: string, message: string) => this.#deliver(this.#channels, heard, message));
      redis.on("smessage", (heard: string, message: string) => {
        this.#deliver(this.#sharded, heard.slice(this.#keyPrefix.length), message);
      });
    }
    const channels = sharded ? this.#sharded : this.#channels;
    // In the caller's AsyncLocalStorage stores, because the connection's events have those of the first subscriber.
    const subscriber: Subscriber = {
      onMessage: AsyncResource.bind(onMessage),
      onGap: onGap && AsyncResource.bind(onGap),
    };
    const others = channels.get(channel);
    if (others) others.add(subscriber);
    else channels.set(channel, new Set([subscriber]));
    try {
      await (sharded ? redis.ssubscribe(channel) : redis.subscribe(channel));
    } catch (error) {
      drop(channels, channel, subscriber);
      throw error;
    }
    return async () => {
      if (!drop(channels, channel, subscriber) || this.#client.state !== "connected") return;
      await (sharded ? redis.sunsubscribe(channel) : redis.unsubscribe(channel));
    };
  }

  /** The connection is back, and with it every subscription. */
  reconnected(): void {
    for (const subscribers of [...this.#channels.values(), ...this.#sharded.values()]) {
      for (const { onGap } of subscribers) if (onGap) this.#call(onGap);
    }
  }

  #deliver(channels: Channels, channel: string, message: string): void {
    for (const { onMessage } of channels.get(channel) ?? []) this.#call(() => onMessage(message, channel));
  }

  /** One listener's bug must not keep the message from the others. */
  #call(listener: () => unknown): void {
    const onError = (error: unknown): void => this.#logger.error("a subscriber threw", { code: errorCode(error) });
    try {
      const heard = listener();
      if (types.isPromise(heard)) heard.catch(onError);
    } catch (error) {
      onError(error);
    }
  }
}

/** True when the channel has no subscriber any more. */
function drop(channels: Channels, channel: string, subscriber: Subscriber): boolean {
  const subscribers = channels.get(channel);
  if (!subscribers?.delete(subscriber) || subscribers.size > 0) return false;
  channels.delete(channel);
  return true;
}
