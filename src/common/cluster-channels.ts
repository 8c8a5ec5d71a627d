import type { ClusterNodes, Node } from "./cluster-nodes.js";
import type { Handle } from "./handle.js";
import type { QueuedCommand } from "./ioredis.js";
import { sleep } from "./time.js";

export interface ChannelsOptions {
  /** Whose listeners hear the messages. */
  readonly redis: Handle;
  readonly nodes: ClusterNodes;
  /** Ends every wait. */
  readonly life: AbortSignal;
  /** They are on another node: what was published meanwhile was missed. */
  readonly onMoved: () => void;
}

const EVENTS = ["message", "messageBuffer", "pmessage", "pmessageBuffer"] as const;
/** Between two nodes that did not take the subscriptions. */
const PAUSE_MS = 100;

/**
 * The subscriptions of one ClusterClient. They are all on one node, which hears whatever is published anywhere in the
 * Cluster; when it is lost they are made anew on another.
 */
export class ClusterChannels {
  readonly #options: ChannelsOptions;
  readonly #channels = new Set<string>();
  readonly #patterns = new Set<string>();
  #node: Node | undefined;
  #isMoving = false;

  constructor(options: ChannelsOptions) {
    this.#options = options;
  }

  get node(): Node {
    return this.#node ?? this.#choose();
  }

  /** The command has had its effect. */
  answered({ name, args }: QueuedCommand, isOfAll: boolean): void {
    const names = args.map(String);
    const known = name.toLowerCase().startsWith("p") ? this.#patterns : this.#channels;
    if (!/^p?un/i.test(name)) return names.forEach((one) => known.add(one));
    if (isOfAll) known.clear();
    for (const one of names) known.delete(one);
  }

  /** The connection to this node is gone, or going. */
  lost(node: Node): void {
    if (node !== this.#node) return;
    this.#node = undefined;
    // Not in this turn: the client is in the midst of its loss.
    queueMicrotask(() => {
      this.#options.nodes.leave(node, { handingOver: true }); // it would subscribe again by itself, to hear all twice
      if (!this.#isMoving) void this.#move(node).finally(() => (this.#isMoving = false));
    });
  }

  /** A new holder. */
  reset(): void {
    this.#node = undefined;
    this.#channels.clear();
    this.#patterns.clear();
  }

  async #move(from: Node): Promise<void> {
    this.#isMoving = true;
    const { nodes, life, onMoved } = this.#options;
    let avoided = from;
    while (!life.aborted && this.#channels.size + this.#patterns.size > 0) {
      const node = this.#node ?? this.#choose(avoided);
      try {
        if (this.#channels.size > 0) await node.client.redis.subscribe(...this.#channels);
        if (this.#patterns.size > 0) await node.client.redis.psubscribe(...this.#patterns);
        if (node === this.#node) return onMoved();
      } catch {
        // Lost in its turn, or never reached: another one may be.
        if (node === this.#node) this.#node = undefined;
        if (!node.client.inTransaction) nodes.leave(node, { handingOver: true });
        await sleep(PAUSE_MS, life).catch(() => {});
      }
      avoided = node;
    }
  }

  #choose(avoided?: Node): Node {
    const node = this.#options.nodes.any(avoided);
    for (const event of EVENTS) {
      node.client.redis.on(event, (...args: unknown[]) => void this.#options.redis.emit(event, ...args));
    }
    return (this.#node = node);
  }
}
