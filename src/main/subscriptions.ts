import { AsyncResource } from "node:async_hooks";
import { types } from "node:util";
import type { SharedClient } from "../clients/shared-client.js";
import type { AskedChannel, SubscribeName } from "../commands/asked-channels.js";
import type { RedisHandle } from "../commands/ioredis.js";
import { ConfigInvalidError } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { unknownOption } from "../core/suggest.js";

/** `channel`: the message's own, also with a pattern. */
export type OnMessage<Message = string> = (message: Message, channel: string) => void;

export interface SubscribeOptions {
  /**
   * The channel belongs to the shard of a Cluster that its name leads to, and hears only what is published by SPUBLISH.
   * Default false.
   */
  readonly sharded?: boolean | undefined;
  /** `channel` is a glob-style pattern. Default false. */
  readonly pattern?: boolean | undefined;
  /** Messages are Buffers. Default false: text, which loses bytes that are no UTF-8. */
  readonly buffers?: boolean | undefined;
  /** Called after each reconnect, before the first message: those published meanwhile were missed. */
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

  /** A sharded channel is a key, and has the `keyPrefix`; a plain one has not. */
  constructor(client: SharedClient, logger: Logger, keyPrefix: string) {
    this.#client = client;
    this.#logger = logger;
    this.#keyPrefix = keyPrefix;
  }

  /** Subscribed when it resolves; the function it gives ends this one subscription and is idempotent. */
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
    // In the caller's AsyncLocalStorage stores, because the connection's events have those of the first subscriber.
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
      void stop().catch(() => {}); // it may have come into force all the same, and its caller cannot end it
      throw error;
    }
    return stop;
  }

  /** This channel is heard again, and what was published meanwhile was not. */
  resubscribed({ by, channel }: AskedChannel): void {
    for (const { onGap } of this.#channels[by].get(this.#nameOf(by, channel)) ?? []) if (onGap) this.#call(onGap);
  }

  async #giveUp(redis: RedisHandle, by: SubscribeName, channel: string): Promise<void> {
    const answer = redis[UNSUBSCRIBE[by]](channel).catch((error: unknown) => {
      if (errorCode(error) !== "REDTHREAD_REPLY_LOST") throw error; // it went with the connection
    });
    if (this.#client.state === "connected") await answer;
    else answer.catch(() => {}); // there is no subscription, and it is not made again
  }

  #listen(redis: RedisHandle): void {
    if (this.#listening) return;
    this.#listening = true;
    redis.on("messageBuffer", (heard: Buffer, message: Buffer) => this.#deliver("subscribe", heard, heard, message));
    redis.on("smessageBuffer", (heard: Buffer, message: Buffer) => this.#deliver("ssubscribe", heard, heard, message));
    redis.on("pmessageBuffer", (asked: string, heard: Buffer, message: Buffer) => {
      this.#deliver("psubscribe", asked, heard, message);
    });
  }

  #deliver(by: SubscribeName, asked: Buffer | string, heard: Buffer, message: Buffer): void {
    for (const { onMessage, buffers } of this.#channels[by].get(this.#nameOf(by, asked)) ?? [])
      this.#call(() => onMessage(buffers ? Buffer.from(message) : String(message), this.#nameOf(by, heard)));
  }

  #nameOf(by: SubscribeName, channel: AskedChannel["channel"]): string {
    return String(channel).slice(by === "ssubscribe" ? this.#keyPrefix.length : 0);
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
