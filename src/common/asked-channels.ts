import type { QueuedCommand } from "./ioredis.js";

type Channel = QueuedCommand["args"][number];

/** The channels that one connection may be subscribed to: asked for, confirmed or not, and not given up again. */
export class AskedChannels {
  /** By what gives them up. */
  readonly #channels: Record<string, Map<string, Channel>> = {
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
    const { name, args } = command;
    const given = this.#channels[name];
    if (!given) return this.#add(this.#channels[name.replace("sub", "unsub")]!, args);
    if (args.length === 0) nameAll(command, [...given.values()]);
    for (const channel of command.args) given.delete(keyOf(channel));
  }

  #add(channels: Map<string, Channel>, args: readonly Channel[]): void {
    for (const channel of args) channels.set(keyOf(channel), channel);
  }
}

function nameAll(command: QueuedCommand, channels: Channel[]): void {
  const isBinary = channels.some((channel) => typeof channel !== "string");
  Object.assign(command, { args: channels.length > 0 ? channels : [""], bufferMode: isBinary });
}

function keyOf(channel: Channel): string {
  return typeof channel === "string" ? Buffer.from(channel).toString("latin1") : (channel as Buffer).toString("latin1");
}
