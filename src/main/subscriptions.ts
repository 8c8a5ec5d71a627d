import { AsyncResource } from "node:async_hooks";
import { types } from "node:util";
import type { SharedClient } from "../clients/shared-client.js";
import type { AskedChannel, SubscribeName } from "../commands/asked-channels.js";
import type { RedisHandle } from "../commands/ioredis.js";
import { ConfigInvalidError } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { unknownOption } from "../core/names.js";

/** `channel` is the message's own channel, also with a pattern. */
export type OnMessage<Message = string> = (message: Message, channel: string) => void;

export interface SubscribeOptions {
  /**
   * Subscribes at the Cluster's shard that the channel's name leads to, by SSUBSCRIBE. Only messages of SPUBLISH come there.
   * Default false.
   */
  readonly sharded?: boolean | undefined;
  /** `channel` is a glob-style pattern. Default false. */
  readonly pattern?: boolean | undefined;
  /** Messages are Buffers. Default false: text, which loses bytes that are not UTF-8. */
  readonly buffers?: boolean | undefined;
  /** Called after each reconnect, before the first message: messages that were published meanwhile were missed. */
  readonly onGap?: (() => void) | undefined;
}

interface Subscriber {
  readonly onMessage: OnMessage<unknown>;
  readonly buffers: boolean;
  readonly onGap: (() => void) | undefined;
}

type Channels = Map<string, Set<Subscriber>>;

/** All subscriptions of the main thread, on one connection that restores them by itself. */
export class Subscriptions {
  readonly #client: SharedClient;
  readonly #logger: Logger;
  readonly #keyPrefix: string;
  readonly #channels: Record<SubscribeName, Channels> = {
    subscribe: new Map(),
    psubscribe: new Map(),
    ssubscribe: new Map(),
  };
  #listening = false;

  /** Sharded channels have the `keyPrefix`, because they are keys. Plain channels do not. */
  constructor(client: SharedClient, logger: Logger, keyPrefix: string) {
    this.#client = client;
    this.#logger = logger;
    this.#keyPrefix = keyPrefix;
  }

  /** Resolves when the channel is subscribed. The returned function ends this one subscription. It is idempotent. */
  async subscribe(
    channel: string,
    onMessage: OnMessage<never>,
    options: SubscribeOptions = {},
  ): Promise<() => Promise<void>> {
    const problem = unknownOption(options, SUBSCRIBE_OPTIONS);
    if (problem !== undefined) throw new ConfigInvalidError(`subscribe(): ${problem}`);
    const { sharded = false, pattern = false, buffers = false, onGap } = options;
    if (sharded && pattern) throw new ConfigInvalidError("there are no sharded patterns");
    const by = sharded ? "ssubscribe" : pattern ? "psubscribe" : "subscribe";
    const redis = await this.#client.get();
    this.#listen(redis);
    const channels = this.#channels[by];
    // Bound to the caller's AsyncLocalStorage stores, because the connection's events have the stores of the first subscriber.
    const subscriber: Subscriber = {
      onMessage: AsyncResource.bind(onMessage as OnMessage<unknown>),
      buffers,
      onGap: onGap && AsyncResource.bind(onGap),
    };
    const others = channels.get(channel);
    if (others) others.add(subscriber);
    else channels.set(channel, new Set([subscriber]));
    let isOver = false;
    const stop = async (): Promise<void> => {
      if (isOver) return;
      drop(channels, channel, subscriber);
      if (!channels.has(channel)) await this.#giveUp(redis, by, channel);
      isOver = true;
    };
    try {
      await redis[by](channel);
    } catch (error) {
      void stop().catch(() => {}); // the server may have subscribed all the same, and the caller cannot end that
      throw error;
    }
    return stop;
  }

  /** The channel is subscribed again, on another connection: tells its subscribers of the gap. */
  resubscribed({ by, channel }: AskedChannel): void {
    for (const { onGap } of this.#channels[by].get(this.#nameOf(by, channel)) ?? []) if (onGap) this.#call(onGap);
  }

  async #giveUp(redis: RedisHandle, by: SubscribeName, channel: string): Promise<void> {
    const answer = redis[UNSUBSCRIBE[by]](channel).catch((error: unknown) => {
      if (errorCode(error) !== "REDTHREAD_REPLY_LOST") throw error; // the subscription went with the connection
    });
    if (this.#client.state === "connected") await answer;
    else answer.catch(() => {}); // without a connection there is no subscription, and it is not made again
  }

  #listen(redis: RedisHandle): void {
    if (this.#listening) return;
    this.#listening = true;
    redis.on("messageBuffer", (from: Buffer, message: Buffer) => this.#deliver("subscribe", from, from, message));
    redis.on("smessageBuffer", (from: Buffer, message: Buffer) => this.#deliver("ssubscribe", from, from, message));
    redis.on("pmessageBuffer", (pattern: string, from: Buffer, message: Buffer) => {
      this.#deliver("psubscribe", pattern, from, message);
    });
  }

  #deliver(by: SubscribeName, asked: Buffer | string, from: Buffer, message: Buffer): void {
    for (const { onMessage, buffers } of this.#channels[by].get(this.#nameOf(by, asked)) ?? [])
      this.#call(() => onMessage(buffers ? Buffer.from(message) : String(message), this.#nameOf(by, from)));
  }

  #nameOf(by: SubscribeName, channel: AskedChannel["channel"]): string {
    return String(channel).slice(by === "ssubscribe" ? this.#keyPrefix.length : 0);
  }

  /** One listener's bug must not keep the message from the others. */
  #call(listener: () => unknown): void {
    const onError = (error: unknown): void => this.#logger.error("a subscriber threw", { code: errorCode(error) });
    try {
      const returned = listener();
      if (types.isPromise(returned)) returned.catch(onError);
    } catch (error) {
      onError(error);
    }
  }
}

const UNSUBSCRIBE = { subscribe: "unsubscribe", psubscribe: "punsubscribe", ssubscribe: "sunsubscribe" } as const;

function drop(channels: Channels, channel: string, subscriber: Subscriber): void {
  const subscribers = channels.get(channel);
  subscribers?.delete(subscriber);
  if (subscribers?.size === 0) channels.delete(channel);
}

const SUBSCRIBE_OPTIONS: Readonly<Record<keyof SubscribeOptions, true>> = {
  sharded: true,
  pattern: true,
  buffers: true,
  onGap: true,
};
