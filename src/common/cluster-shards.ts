import type { ClusterNodes, Node } from "./cluster-nodes.js";
import { isOfShards } from "./cluster-commands.js";
import type { Handle } from "./handle.js";
import type { QueuedCommand } from "./ioredis.js";
import type { SlotMap } from "./slot-map.js";
import { sleep } from "./time.js";

export interface ShardsOptions {
  /** Whose listeners hear the messages. */
  readonly redis: Handle;
  readonly nodes: ClusterNodes;
  readonly slots: SlotMap;
  /** Ends every wait. */
  readonly life: AbortSignal;
  /** What an answer says about the map. */
  readonly learn: (error: Error, node: Node) => unknown;
  /** Some are on another connection: what was published meanwhile was missed. */
  readonly onMoved: () => void;
}

interface Channel {
  readonly name: string;
  readonly slot: number;
  /** Where it is subscribed; none while it is looked for. */
  node: Node | undefined;
}

const EVENTS = ["smessage", "smessageBuffer"] as const;
/** Between two attempts that found no node to take the subscription. */
const PAUSE_MS = 100;

/** The sharded subscriptions of one ClusterClient: each is at the node that has its channel's slot, and goes where that goes. */
export class ClusterShards {
  readonly #options: ShardsOptions;
  readonly #channels = new Map<string, Channel>();
  readonly #heard = new Set<Node>();
  /** Who was asked last, as redirections are followed, and after how many moves. */
  readonly #asked = new WeakMap<QueuedCommand, { readonly node: Node; readonly moves: number }>();
  /** How often a node gave up a slot: it may have been that of a subscription just made. */
  #moves = 0;

  constructor(options: ShardsOptions) {
    this.#options = options;
  }

  /** The command goes to this node. */
  handed(command: QueuedCommand, node: Node): void {
    if (!isOfShards(command)) return;
    this.#hear(node);
    this.#asked.set(command, { node, moves: this.#moves });
  }

  /** The command has had its effect. */
  answered(command: QueuedCommand): void {
    const names = command.args.map(String);
    if (command.name.toLowerCase() === "sunsubscribe") return names.forEach((name) => void this.#channels.delete(name));
    const slot = command.getSlot();
    const { node, moves } = this.#asked.get(command)!;
    const isThere = moves === this.#moves && this.#options.nodes.isIn(node); // what tells of its end may have passed
    const channels = names.map((name): Channel => ({ name, slot, node: isThere ? node : undefined }));
    for (const channel of channels) this.#channels.set(channel.name, channel);
    if (!isThere) this.#look(channels);
  }

  /** The connection to this node is gone, or going. */
  lost(node: Node): void {
    if (!this.#options.nodes.isIn(node)) this.#heard.delete(node); // else it comes back, with its listeners
    const channels = this.#taken(node);
    if (channels.length === 0) return;
    // Not in this turn: the client is in the midst of its loss.
    queueMicrotask(() => {
      this.#options.nodes.leave(node, { handingOver: true }); // it would subscribe again by itself, wherever the slot is then
      this.#look(channels);
    });
  }

  /** A new holder. */
  reset(): void {
    this.#channels.clear();
    for (const node of this.#heard) this.#options.nodes.leave(node, { handingOver: false });
    this.#heard.clear();
  }

  #hear(node: Node): void {
    if (this.#heard.has(node)) return;
    this.#heard.add(node);
    const { redis } = node.client;
    for (const event of EVENTS) redis.on(event, (...args: unknown[]) => void this.#options.redis.emit(event, ...args));
    // It has given up a slot, and told so who had subscribed there; which channel, ioredis does not say.
    redis.on("moved", () => {
      this.#moves++;
      this.#options.nodes.refresh();
      this.#look(this.#taken(node));
    });
  }

  /** Those at this node, which from now on are looked for. */
  #taken(node: Node): Channel[] {
    const channels = [...this.#channels.values()].filter((channel) => channel.node === node);
    for (const channel of channels) channel.node = undefined;
    return channels;
  }

  #look(channels: readonly Channel[]): void {
    if (channels.length > 0) void this.#restore(channels);
  }

  async #restore(channels: readonly Channel[]): Promise<void> {
    await Promise.all(channels.map((channel) => this.#subscribe(channel)));
    if (!this.#options.life.aborted) this.#options.onMoved();
  }

  async #subscribe(channel: Channel): Promise<void> {
    const { nodes, slots, life, learn } = this.#options;
    while (!life.aborted && this.#channels.get(channel.name) === channel) {
      const owner = slots.owner(channel.slot);
      const node = owner ? nodes.at(owner) : nodes.any();
      try {
        await node.client.connect();
        if (node.client.inTransaction) throw new Error("what is subscribed there would be a part of it");
        this.#hear(node);
        const moves = this.#moves;
        await node.client.redis.own("ssubscribe", channel.name);
        if (this.#channels.get(channel.name) !== channel)
          void node.client.redis.own("sunsubscribe", channel.name).catch(() => {});
        if (!node.client.isAlive() || moves !== this.#moves) continue; // what tells of its end has passed
        channel.node = node;
        return;
      } catch (error) {
        if (!learn(error as Error, node)) await sleep(PAUSE_MS, life).catch(() => {});
      }
    }
  }
}
