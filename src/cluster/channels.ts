import type { AskedChannel, AskedChannels, OnResubscribed } from "../commands/asked-channels.js";
import type { Handle } from "../commands/handle.js";
import { Command, type QueuedCommand } from "../commands/ioredis.js";
import type { Logger } from "../core/log.js";
import { classifyReply, isReplyError, replyCode } from "../core/replies.js";
import { sleep, within } from "../core/waiting.js";
import { isOfChannels, isOfShards } from "./commands.js";
import type { ClusterNodes, Node } from "./nodes.js";
import type { SlotMap } from "./slot-map.js";

export interface ChannelsOptions {
  /** Whose listeners hear the messages. */
  readonly redis: Handle;
  readonly asked: AskedChannels;
  readonly nodes: ClusterNodes;
  readonly slots: SlotMap;
  /** Ends every wait. */
  readonly life: AbortSignal;
  /** A node that is silent for longer is left for another. */
  readonly answerMs: number;
  readonly logger: Logger;
  /** Of the client, in logs. */
  readonly name: string;
  /** What an answer says about the map. */
  readonly learn: (error: Error, node: Node) => unknown;
  /** It is on another connection: what was published meanwhile was missed. */
  readonly onResubscribed: OnResubscribed | undefined;
}

const EVENTS = ["message", "messageBuffer", "pmessage", "pmessageBuffer", "smessage", "smessageBuffer"] as const;
/** Between two attempts to subscribe; the longer one where the server refuses until somebody changes something. */
const PAUSE_MS = 100;
const REFUSED_PAUSE_MS = 1_000;

/**
 * The subscriptions of one ClusterClient. Channels and patterns are all on one node, which hears whatever is published
 * anywhere in the Cluster; a sharded channel is at the node that has its slot. Each is made anew as long as it is nowhere.
 */
export class ClusterChannels {
  readonly #options: ChannelsOptions;
  /** Where each is subscribed to, or about to be. */
  readonly #places = new WeakMap<AskedChannel, Node>();
  readonly #sought = new Set<AskedChannel>();
  readonly #heard = new Set<Node>();
  /** That of all but sharded channels. */
  #node: Node | undefined;
  #lastNode: Node | undefined;

  constructor(options: ChannelsOptions) {
    this.#options = options;
  }

  get node(): Node {
    return (this.#node ??= this.#options.nodes.any(this.#lastNode));
  }

  /** None is looked for. */
  get isComplete(): boolean {
    return this.#sought.size === 0;
  }

  /** The command goes to this node. */
  handed(command: QueuedCommand, node: Node): void {
    if (!isOfChannels(command) && !isOfShards(command)) return;
    this.#hear(node);
    const placed = this.#options.asked.of(command).filter((asked) => this.#places.get(asked) !== node);
    for (const asked of placed) this.#places.set(asked, node);
    // Those that were subscribed to before, elsewhere, would be sought by nobody.
    command.promise.catch(() => {
      this.#take(placed, node);
      this.look(placed);
    });
  }

  /** Those of them that are nowhere are looked for. */
  look(channels: readonly AskedChannel[]): void {
    for (const asked of channels) {
      if (!asked.isConfirmed || this.#places.has(asked) || this.#sought.has(asked)) continue;
      this.#sought.add(asked);
      void this.#subscribe(asked);
    }
  }

  /** The connection to this node is gone, or going. */
  lost(node: Node): void {
    const { nodes } = this.#options;
    if (!nodes.isIn(node)) this.#heard.delete(node); // else it comes back, with its listeners
    const isHolder = this.#leaves(node);
    if (this.#take(this.#options.asked.all, node).length === 0 && !isHolder) return;
    // Not in this turn: the client is in the midst of its loss.
    queueMicrotask(() => {
      nodes.leave(node, { handingOver: true }); // nobody subscribes there again
      this.look(this.#options.asked.all);
    });
  }

  /** A new holder. */
  reset(): void {
    this.#options.asked.clear();
    this.#node = undefined;
    for (const node of this.#heard) this.#options.nodes.leave(node, { handingOver: false });
    this.#heard.clear();
  }

  #hear(node: Node): void {
    if (this.#heard.has(node)) return;
    this.#heard.add(node);
    const { redis: ours, nodes, asked } = this.#options;
    const { redis } = node.client;
    for (const event of EVENTS) {
      // What a node says that is being left comes from another one, too.
      redis.on(event, (...args: unknown[]) => void (nodes.isIn(node) && ours.emit(event, ...args)));
    }
    // It has given up a slot, and told so the clients that had subscribed there; which channel, ioredis only notes.
    redis.on("moved", () => {
      nodes.refresh();
      const given = asked.all.filter((one) => one.by === "ssubscribe" && !redis.isSubscribedTo(one));
      this.look(this.#take(given, node));
    });
  }

  /** Whether it was that of all but sharded channels: another one takes them. */
  #leaves(node: Node): boolean {
    if (node !== this.#node) return false;
    this.#node = undefined;
    this.#lastNode = node;
    return true;
  }

  /** Gives those of them that were at this node; from now on they are nowhere. */
  #take(channels: readonly AskedChannel[], node: Node): AskedChannel[] {
    const taken = channels.filter((asked) => this.#places.get(asked) === node);
    for (const asked of taken) this.#places.delete(asked);
    return taken;
  }

  async #subscribe(asked: AskedChannel): Promise<void> {
    const { nodes, life, learn, logger, name } = this.#options;
    let isTold = false;
    while (!life.aborted && this.#options.asked.has(asked) && !this.#places.has(asked)) {
      const node = this.#nodeFor(asked);
      this.#places.set(asked, node);
      try {
        await this.#subscribeAt(node, asked);
      } catch (error) {
        this.#take([asked], node);
        const isRefused = isReplyError(error);
        // Lost in its turn, or never reached: another one may be.
        if (!isRefused && !node.client.inTransaction && this.#leaves(node)) nodes.leave(node, { handingOver: true });
        if (learn(error as Error, node)) continue;
        const isFinal = isRefused && classifyReply(error) === "fail";
        if (isFinal && !isTold) logger.warn("a subscription is refused", { name, code: replyCode(error) });
        isTold ||= isFinal;
        await sleep(isFinal ? REFUSED_PAUSE_MS : PAUSE_MS, life).catch(() => {}); // closed
      }
    }
    this.#sought.delete(asked); // in the turn of the last look at its place
  }

  async #subscribeAt(node: Node, asked: AskedChannel): Promise<void> {
    const { answerMs, onResubscribed } = this.#options;
    const { client } = node;
    const late = (): Error => new Error(`no answer within ${answerMs} ms`);
    await within(client.connect(), answerMs, late);
    if (client.inTransaction) throw new Error("what is subscribed there would be a part of it");
    this.#hear(node);
    const answer = client.subscribeAgain(asked, () => {
      if (!this.#options.asked.has(asked)) client.redis.giveUp(asked);
      else if (this.#places.get(asked) === node) onResubscribed?.(asked);
    });
    await within(answer, answerMs, late);
  }

  #nodeFor({ by, channel }: AskedChannel): Node {
    if (by !== "ssubscribe") return this.node;
    const { nodes, slots } = this.#options;
    const owner = slots.owner(new Command(by, [channel]).getSlot());
    return owner ? nodes.at(owner) : nodes.any();
  }
}
