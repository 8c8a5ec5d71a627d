import type { CommandErrors } from "../commands/command-errors.js";
import { Client } from "../connection/client.js";
import type { ClientOptions } from "../connection/client-context.js";
import type { ConnectionState } from "../connection/connection-state.js";
import { withFields } from "../core/log.js";
import { isServed, replyCode } from "../core/replies.js";
import type { ConnectGate } from "../gate/connect-gate.js";
import type { NodeEndpoint, SlotMap } from "./slot-map.js";

export interface ClusterOptions extends Omit<ClientOptions, "gate"> {
  readonly gate: ConnectGate;
}

/** What the parts of one ClusterClient share. */
export interface ClusterContext {
  readonly options: ClusterOptions;
  readonly slots: SlotMap;
  readonly errors: CommandErrors;
  /** One holder has the client for itself: it may WATCH, WAIT for what it wrote, and needs one node after the other. */
  readonly isPrivate: boolean;
  /** Aborted by `close`: it ends every wait. */
  readonly life: AbortSignal;
}

export interface Node extends NodeEndpoint {
  readonly client: Client;
  /** Its client is being closed: the commands that it rejects meanwhile are sent to another node. */
  isHandingOver: boolean;
  /** It answers, but says that the Cluster does not serve: it may have lost the other nodes. */
  isDown: boolean;
  /** READONLY was sent on its connection: it answers reads, and scripts, also while it is a replica. */
  isReadOnly: boolean;
  /** It is being asked for the map, and is kept meanwhile although it may have no slots. */
  isInformant: boolean;
}

/** The clients of one ClusterClient: one for each node that was needed so far. Its first command connects it. */
export class ClusterNodes {
  readonly #context: ClusterContext;
  readonly #closeMs: number;
  readonly #onConnecting: () => void;
  readonly #onLost: (node: Node) => void;
  readonly #nodes = new Map<string, Node>();
  readonly #leaving = new Set<Client>();
  readonly #unlisten: () => void;

  /**
   * `closeMs` is for the connection to a node that is left. `onLost` tells that a node has lost its connection, or was
   * left; `onConnecting`, that a node is not connected but should be.
   */
  constructor(context: ClusterContext, closeMs: number, onConnecting: () => void, onLost: (node: Node) => void) {
    this.#context = context;
    this.#closeMs = closeMs;
    this.#onConnecting = onConnecting;
    this.#onLost = onLost;
    this.#unlisten = context.slots.listen(() => this.#mapChanged());
  }

  [Symbol.iterator](): IterableIterator<Node> {
    return this.#nodes.values();
  }

  has(endpoint: NodeEndpoint): boolean {
    return this.#nodes.has(endpoint.address);
  }

  /** The node at this address; a new one has no connection yet. */
  at(endpoint: NodeEndpoint): Node {
    return this.#nodes.get(endpoint.address) ?? this.#add(endpoint);
  }

  /** Whether the node was not left. */
  isIn(node: Node): boolean {
    return this.#nodes.get(node.address) === node;
  }

  /** A replica of this master that serves at the moment. Replicas without a connection get one for the next time. */
  replicaOf(master: NodeEndpoint): Node | undefined {
    const serving: Node[] = [];
    for (const endpoint of this.#context.slots.replicasOf(master)) {
      const node = this.at(endpoint);
      if (node.client.isAlive() && !node.isDown) serving.push(node);
      else if (node.client.state === "disconnected") node.client.connect().catch(() => {}); // its breaker sets the pace
    }
    return anyOf(serving);
  }

  /** A master, connected if possible, and the same one as long as it serves. It is not `avoided` if there is another. */
  any(avoided?: Node): Node {
    const { slots } = this.#context;
    for (const node of this)
      if (isOpen(node) && node !== avoided && !node.isDown && !slots.isReplica(node.address)) return node;
    const candidates = this.candidates();
    return this.at(candidates.find(({ address }) => address !== avoided?.address) ?? candidates[0]!);
  }

  /** Masters in random order, then the configured nodes. Nodes that are known to be down come last. */
  candidates(): NodeEndpoint[] {
    const { slots, options } = this.#context;
    const masters = slots.masters.map((endpoint) => ({ endpoint, order: Math.random() }));
    const all = new Set(masters.toSorted((a, b) => a.order - b.order).map(({ endpoint }) => endpoint));
    for (const configured of options.redis.clusterNodes!) all.add(slots.at(configured));
    const isDown = (endpoint: NodeEndpoint): number => Number(options.gate.nodeBreaker(endpoint).state !== "closed");
    return [...all].toSorted((a, b) => isDown(a) - isDown(b));
  }

  /** Whether a node is connected, or the map is known and no connection was needed yet. */
  get areAlive(): boolean {
    const { slots } = this.#context;
    if (!slots.isKnown) return false;
    for (const { client } of this) if (client.isAlive()) return true;
    return this.#nodes.size === 0 && slots.isReached;
  }

  /** Closes the client of a node; never rejects. With `handingOver` the node that has its slots now gets its commands. */
  leave(node: Node, { handingOver }: { handingOver: boolean }): void {
    if (!this.isIn(node)) return;
    this.#nodes.delete(node.address);
    node.isHandingOver = handingOver;
    const closed = node.client.close(this.#closeMs);
    node.isHandingOver = false;
    this.#leaving.add(node.client);
    if (handingOver) this.#onLost(node);
    void closed.then(() => this.#leaving.delete(node.client));
  }

  /** Never rejects. */
  async close(ms: number): Promise<void> {
    this.#unlisten();
    const clients = [...this].map(({ client }) => client);
    await Promise.all([...clients, ...this.#leaving].map((client) => client.close(ms)));
  }

  #add(endpoint: NodeEndpoint): Node {
    const { options, life } = this.#context;
    const { role, redis } = options;
    const isChecked = role !== "subscriber" && role !== "owned"; // a single server is checked when its client is handed out: these two are not
    const client = new Client({
      ...options,
      isNode: true,
      ...(isChecked && { idleCheckMs: redis.idleCheckMs }),
      redis: { ...redis, host: endpoint.host, port: endpoint.port },
      logger: withFields(options.logger, { address: endpoint.address }),
      gate: options.gate.node(endpoint),
      isFurther: () => [...this].some(({ client: other }) => other.isAlive()),
      // There is one attempt for a caller that asks for the map. With commands to send, attempts go on without end.
      retry: { ...options.retry, attempts: 1 },
      onState: (state, previous) => this.#stateChanged(node, state, previous),
    });
    const node: Node = {
      ...endpoint,
      client,
      isHandingOver: false,
      isDown: false,
      isReadOnly: false,
      isInformant: false,
    };
    if (life.aborted) void client.close(0);
    this.#nodes.set(endpoint.address, node);
    return node;
  }

  #stateChanged(node: Node, state: ConnectionState, previous: ConnectionState): void {
    const { options, slots } = this.#context;
    // The end of a node is not the end of the Cluster's client.
    options.onState?.(state === "closed" ? "disconnected" : state, previous);
    if (state === "connected") {
      if (slots.has(node.address)) slots.isReached = true;
      node.isReadOnly = false;
      this.#agreeOnRole(node); // before the commands that waited for the connection
    }
    if (state !== "connecting") return;
    this.#onConnecting();
    if (previous !== "connected") return;
    this.#onLost(node);
    // The commands that it held can be read elsewhere. Not in this turn, because the client is still handling its loss.
    if (slots.isReplica(node.address)) queueMicrotask(() => this.leave(node, { handingOver: true }));
  }

  /**
   * Only a node that the map calls a replica gets READONLY: a demoted master would run scripts itself, which must be
   * redirected. Inside a MULTI nothing is sent; what the node redirects or refuses then brings the next map.
   */
  #agreeOnRole(node: Node): void {
    const { slots, options } = this.#context;
    const isReplica = slots.isReplica(node.address);
    if (!isOpen(node) || node.isReadOnly === isReplica) return;
    node.isReadOnly = isReplica;
    node.client.redis.own(isReplica ? "readonly" : "readwrite").catch((error: Error) => {
      const fields = { name: options.name, address: node.address, code: replyCode(error) };
      if (isServed(error)) options.logger.warn("replicas cannot be read, masters are", fields);
    });
  }

  #mapChanged(): void {
    const { slots, options } = this.#context;
    for (const node of this) {
      this.#agreeOnRole(node);
      if (slots.has(node.address) || node.isInformant) continue;
      this.leave(node, { handingOver: true });
      options.gate.nodeBreaker(node).dismiss();
    }
  }
}

/** Connected, and in no transaction: a command of the library would become a part of it. */
export function isOpen({ client }: Node): boolean {
  return client.isAlive() && !client.inTransaction;
}

export function anyOf<T>(list: readonly T[]): T | undefined {
  return list[Math.floor(Math.random() * list.length)];
}
