import { type AskedChannel, AskedChannels } from "../commands/asked-channels.js";
import { traitOf } from "../commands/traits.js";
import type { Handle } from "../commands/handle.js";
import { Command, type QueuedCommand } from "../commands/ioredis.js";
import { classifyReply, isReplyError, replyCode } from "../core/replies.js";
import { sleep, within } from "../core/waiting.js";
import type { ClusterContext, ClusterNodes, Node } from "./nodes.js";
import type { TopologyRefresh } from "./topology-refresh.js";

const EVENTS = ["message", "messageBuffer", "pmessage", "pmessageBuffer", "smessage", "smessageBuffer"] as const;
/** The pause between two attempts to subscribe; the longer one if the server refuses until its configuration changes. */
const PAUSE_MS = 100;
const REFUSED_PAUSE_MS = 1_000;

/**
 * The subscriptions of one ClusterClient. Channels and patterns are all on one node, which gets every message that is
 * published in the Cluster. A sharded channel is on the node that has its slot. A channel that has lost its node is
 * subscribed to again.
 */
export class ClusterChannels {
  readonly asked = new AskedChannels();
  readonly #context: ClusterContext;
  readonly #nodes: ClusterNodes;
  readonly #topology: TopologyRefresh;
  /** The listeners on it get the messages. */
  readonly #redis: Handle;
  /** The node on which a channel is subscribed to, or about to be. */
  readonly #nodeOf = new WeakMap<AskedChannel, Node>();
  readonly #resubscribing = new Set<AskedChannel>();
  readonly #listenedTo = new Set<Node>();
  /** The node of all channels that are not sharded. */
  #node: Node | undefined;
  #lastNode: Node | undefined;

  constructor(context: ClusterContext, nodes: ClusterNodes, topology: TopologyRefresh, redis: Handle) {
    this.#context = context;
    this.#nodes = nodes;
    this.#topology = topology;
    this.#redis = redis;
  }

  get node(): Node {
    return (this.#node ??= this.#nodes.any(this.#lastNode));
  }

  /** Whether no channel has to be subscribed to again. */
  get isComplete(): boolean {
    return this.#resubscribing.size === 0;
  }

  /** Called before a command goes to this node. */
  sending(command: QueuedCommand, node: Node): void {
    if (traitOf(command.name) !== "subscription") return;
    this.#listenTo(node);
    const placed = this.asked.of(command).filter((asked) => this.#nodeOf.get(asked) !== node);
    for (const asked of placed) this.#nodeOf.set(asked, node);
    // A channel that was subscribed to before, on another node, would stay lost.
    command.promise.catch(() => {
      this.#forget(placed, node);
      this.resubscribe(placed);
    });
  }

  /** Subscribes again to the given channels that are confirmed and on no node. */
  resubscribe(channels: readonly AskedChannel[]): void {
    for (const asked of channels) {
      if (!asked.isConfirmed || this.#nodeOf.has(asked) || this.#resubscribing.has(asked)) continue;
      this.#resubscribing.add(asked);
      void this.#subscribe(asked);
    }
  }

  /** The connection to this node is lost, or being closed. */
  lost(node: Node): void {
    if (!this.#nodes.isIn(node)) this.#listenedTo.delete(node); // otherwise it reconnects, and keeps its listeners
    const wasChosen = this.#leaveChosen(node);
    if (this.#forget(this.asked.all, node).length === 0 && !wasChosen) return;
    // Not in this turn, because the client is still handling its loss.
    queueMicrotask(() => {
      this.#nodes.leave(node, { handingOver: true }); // nothing is subscribed to there again
      this.resubscribe(this.asked.all);
    });
  }

  /** Gives up all subscriptions for the next holder. */
  reset(): void {
    this.asked.clear();
    this.#node = undefined;
    for (const node of this.#listenedTo) this.#nodes.leave(node, { handingOver: false });
    this.#listenedTo.clear();
  }

  #listenTo(node: Node): void {
    if (this.#listenedTo.has(node)) return;
    this.#listenedTo.add(node);
    const { redis } = node.client;
    for (const event of EVENTS) {
      // A node that was left may still send messages, which come from its successor, too.
      redis.on(event, (...args: unknown[]) => void (this.#nodes.isIn(node) && this.#redis.emit(event, ...args)));
    }
    // The node has given up a slot and unsubscribed its channels. ioredis tells no more than that.
    redis.on("moved", () => {
      this.#topology.refresh();
      const given = this.asked.all.filter((one) => one.by === "ssubscribe" && !redis.isSubscribedTo(one));
      this.resubscribe(this.#forget(given, node));
    });
  }

  /** If the node was chosen for all channels that are not sharded, another one is chosen next; false if it was not. */
  #leaveChosen(node: Node): boolean {
    if (node !== this.#node) return false;
    this.#node = undefined;
    this.#lastNode = node;
    return true;
  }

  /** The given channels that were on this node, and from now on are on none. */
  #forget(channels: readonly AskedChannel[], node: Node): AskedChannel[] {
    const forgotten = channels.filter((asked) => this.#nodeOf.get(asked) === node);
    for (const asked of forgotten) this.#nodeOf.delete(asked);
    return forgotten;
  }

  async #subscribe(asked: AskedChannel): Promise<void> {
    const { life, options } = this.#context;
    let isLogged = false;
    while (!life.aborted && this.asked.has(asked) && !this.#nodeOf.has(asked)) {
      const node = this.#nodeFor(asked);
      this.#nodeOf.set(asked, node);
      try {
        await this.#subscribeAt(node, asked);
      } catch (error) {
        this.#forget([asked], node);
        const isRefused = isReplyError(error);
        // It lost its connection, or was never reached: another node may be reachable.
        if (!isRefused && !node.client.inTransaction && this.#leaveChosen(node))
          this.#nodes.leave(node, { handingOver: true });
        if (this.#topology.learn(error as Error, node)) continue;
        const isFinal = isRefused && classifyReply(error) === "fail";
        if (isFinal && !isLogged)
          options.logger.warn("a subscription is refused", { name: options.name, code: replyCode(error) });
        isLogged ||= isFinal;
        await sleep(isFinal ? REFUSED_PAUSE_MS : PAUSE_MS, life).catch(() => {}); // closed
      }
    }
    this.#resubscribing.delete(asked); // in the same turn as the last look at its node
  }

  async #subscribeAt(node: Node, asked: AskedChannel): Promise<void> {
    const { redis, onResubscribed } = this.#context.options;
    const { client } = node;
    const ms = redis.commandTimeoutMs;
    const late = (): Error => new Error(`no answer within ${ms} ms`);
    await within(client.connect(), ms, late);
    if (client.inTransaction) throw new Error("the subscription would become a part of a transaction");
    this.#listenTo(node);
    const answer = client.subscribeAgain(asked, () => {
      if (!this.asked.has(asked)) client.redis.giveUp(asked);
      else if (this.#nodeOf.get(asked) === node) onResubscribed?.(asked);
    });
    await within(answer, ms, late);
  }

  #nodeFor({ by, channel }: AskedChannel): Node {
    if (by !== "ssubscribe") return this.node;
    const owner = this.#context.slots.owner(new Command(by, [channel]).getSlot());
    return owner ? this.#nodes.at(owner) : this.#nodes.any();
  }
}
