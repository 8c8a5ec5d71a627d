import { isReplyError } from "../core/replies.js";
import type { QueuedCommand } from "./ioredis.js";

type Channel = QueuedCommand["args"][number];

/** The command that subscribes to the channels of a kind. */
export type SubscribeName = "subscribe" | "psubscribe" | "ssubscribe";

export interface AskedChannel {
  readonly by: SubscribeName;
  readonly channel: Channel;
  /** The server has confirmed the subscription, and the caller was told so. */
  isConfirmed: boolean;
  /** How many commands have asked for the channel, and were not rejected. */
  asks: number;
}

/** Called before any message that comes after the gap. */
export type OnResubscribed = (asked: AskedChannel) => void;

/** The channels that a client may be subscribed to: asked for, confirmed or not, and not given up again. */
export class AskedChannels {
  /** By the command that gives up channels of the kind. */
  readonly #channels: Record<string, Map<string, AskedChannel>> = {
    unsubscribe: new Map(),
    punsubscribe: new Map(),
    sunsubscribe: new Map(),
  };

  /**
   * Called with each subscription command before it is written. UNSUBSCRIBE without channels is answered once for each
   * channel, or once if there is none. ioredis cannot count that while channels of other kinds remain, so the channels are
   * named: then each is answered, subscribed or not.
   */
  sent(command: QueuedCommand): void {
    // In another spelling ioredis would not recognize its own subscription commands.
    command.name = command.name.toLowerCase();
    const given = this.#channels[command.name];
    if (!given) return this.#add(command);
    if (command.args.length === 0) nameAll(command, [...given.values()]);
    // They are dropped at once, so that they are not restored if the connection is lost before the answer.
    for (const channel of command.args) given.delete(keyOf(channel));
  }

  /** There is no connection: the channels that this command gives up are not subscribed to, and will not be. */
  notSent({ name, args }: QueuedCommand): void {
    const given = this.#channels[name.toLowerCase()];
    if (args.length === 0) given?.clear();
    for (const channel of args) given?.delete(keyOf(channel));
  }

  /** The connection is lost. A subscription that no caller was told of is not restored. */
  lost(): void {
    for (const channels of Object.values(this.#channels))
      for (const [key, { isConfirmed }] of channels) if (!isConfirmed) channels.delete(key);
  }

  clear(): void {
    for (const channels of Object.values(this.#channels)) channels.clear();
  }

  get all(): AskedChannel[] {
    return Object.values(this.#channels).flatMap((channels) => [...channels.values()]);
  }

  /** The channels that the next connection is to be subscribed to. */
  get confirmed(): AskedChannel[] {
    return this.all.filter(({ isConfirmed }) => isConfirmed);
  }

  /** The channels that a command subscribes to. */
  of({ name, args }: QueuedCommand): AskedChannel[] {
    const known = this.#channels[givenUpBy(name)];
    return known ? args.flatMap((channel) => known.get(keyOf(channel)) ?? []) : [];
  }

  /** Whether the channel is still wanted: it was not given up, or was asked for again. */
  has({ by, channel }: AskedChannel): boolean {
    return this.#channels[givenUpBy(by)]!.has(keyOf(channel));
  }

  #add(command: QueuedCommand): void {
    const by = command.name as SubscribeName;
    const channels = this.#channels[givenUpBy(by)]!;
    const added = command.args.map((channel): AskedChannel => {
      const asked = channels.get(keyOf(channel)) ?? { by, channel, isConfirmed: false, asks: 0 };
      asked.asks++;
      channels.set(keyOf(channel), asked);
      return asked;
    });
    const { resolve, reject } = command;
    command.reject = (error: Error) => {
      // Without an answer of the server the channels may be subscribed to all the same.
      for (const asked of isReplyError(error) ? added : []) {
        const key = keyOf(asked.channel);
        if (--asked.asks === 0 && !asked.isConfirmed && channels.get(key) === asked) channels.delete(key);
      }
      return Reflect.apply(reject, command, [error]);
    };
    command.resolve = (reply: unknown) => {
      // A caller that was told of a failure does not count on the subscription.
      for (const asked of added) asked.isConfirmed ||= !command.isSettled;
      return Reflect.apply(resolve, command, [reply]);
    };
  }
}

function givenUpBy(subscribe: string): string {
  return subscribe.toLowerCase().replace("sub", "unsub");
}

function nameAll(command: QueuedCommand, asked: AskedChannel[]): void {
  const channels = asked.map(({ channel }) => channel);
  const isBinary = channels.some((channel) => typeof channel !== "string");
  Object.assign(command, { args: channels.length > 0 ? channels : [""], bufferMode: isBinary });
}

/** Texts and bytes that mean the same channel have the same key. */
function keyOf(channel: Channel): string {
  return Buffer.from(channel as string).toString("latin1");
}
