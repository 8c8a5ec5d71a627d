import { isReplyError } from "../core/replies.js";
import type { QueuedCommand } from "./ioredis.js";

type Channel = QueuedCommand["args"][number];

/** What subscribes to the channels of a kind. */
export type SubscribeName = "subscribe" | "psubscribe" | "ssubscribe";

export interface AskedChannel {
  readonly by: SubscribeName;
  readonly channel: Channel;
  /** The caller was told that it is subscribed to. */
  isConfirmed: boolean;
  /** How many commands have asked for it, and were not refused. */
  asks: number;
}

/** Called before any message that comes after the gap. */
export type OnResubscribed = (asked: AskedChannel) => void;

/** The channels that a client may be subscribed to: asked for, confirmed or not, and not given up again. */
export class AskedChannels {
  /** By what gives them up. */
  readonly #channels: Record<string, Map<string, AskedChannel>> = {
    unsubscribe: new Map(),
    punsubscribe: new Map(),
    sunsubscribe: new Map(),
  };

  /**
   * Told of each subscription command before it is written. To give up all without naming them is answered once for each
   * or once for none, which ioredis cannot count where others remain: so that they are named. A channel that is not
   * subscribed to is answered as well.
   */
  sent(command: QueuedCommand): void {
    // By another spelling ioredis would not find its own kind of the command.
    command.name = command.name.toLowerCase();
    const given = this.#channels[command.name];
    if (!given) return this.#add(command);
    if (command.args.length === 0) nameAll(command, [...given.values()]);
    // At once, so that no loss before the answer brings them back.
    for (const channel of command.args) given.delete(keyOf(channel));
  }

  /** There is no connection: what this gives up is not subscribed to, and will not be. */
  sentInVain({ name, args }: QueuedCommand): void {
    const given = this.#channels[name.toLowerCase()];
    if (args.length === 0) given?.clear();
    for (const channel of args) given?.delete(keyOf(channel));
  }

  /** With the connection. What nobody was told of is not restored. */
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

  /** What the next connection is to be subscribed to. */
  get confirmed(): AskedChannel[] {
    return this.all.filter(({ isConfirmed }) => isConfirmed);
  }

  /** Those that a command subscribes to. */
  of({ name, args }: QueuedCommand): AskedChannel[] {
    const known = this.#channels[givenUpBy(name)];
    return known ? args.flatMap((channel) => known.get(keyOf(channel)) ?? []) : [];
  }

  /** It was not given up, or was asked for again. */
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
      // Without an answer it may be subscribed to all the same.
      for (const asked of isReplyError(error) ? added : []) {
        const key = keyOf(asked.channel);
        if (--asked.asks === 0 && !asked.isConfirmed && channels.get(key) === asked) channels.delete(key);
      }
      return Reflect.apply(reject, command, [error]);
    };
    command.resolve = (reply: unknown) => {
      // A caller who was told that it failed is not subscribed.
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

function keyOf(channel: Channel): string {
  return typeof channel === "string" ? Buffer.from(channel).toString("latin1") : (channel as Buffer).toString("latin1");
}
