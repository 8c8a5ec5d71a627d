import { Client, type ClientOptions } from "../connection/client.js";
import type { ConnectionState } from "../connection/connection-state.js";
import { misled } from "../connection/foreign.js";
import { AuthFailedError, ConnectFailedError } from "../core/errors.js";
import { errorReason, withFields } from "../core/log.js";
import { isReplyError, isServed, isUnknown, replyCode } from "../core/replies.js";
import { monotonic, randomBetween } from "../core/clock.js";
import { within } from "../core/waiting.js";
import type { ConnectGate } from "../gate/connect-gate.js";
import { type Informant, NotServingError, type Place, type SlotMap } from "./slot-map.js";
import { SpareConnections } from "./spares.js";

export interface ClusterOptions extends Omit<ClientOptions, "gate"> {
  readonly gate: ConnectGate;
}

export interface Node extends Place, Informant {
  readonly client: Client;
  /** Its client is being closed, and what it held in vain looks for another way in this very turn. */
  isHandingOver: boolean;
  /** It answers, but says that the Cluster does not serve: it may have lost the others. */
  isDown: boolean;
  /** READONLY was said on its connection: it answers reads, and scripts, also while it is a replica. */
  isReadOnly: boolean;
}

export interface NodesOptions {
  readonly cluster: ClusterOptions;
  readonly slots: SlotMap;
  /** For the connection to a node that has left. */
  readonly closeMs: number;
  /** Of one holder, who needs one node after the other. */
  readonly isPrivate: boolean;
  /** Ends every wait. */
  readonly life: AbortSignal;
  /** It has lost its connection, or has left. */
  readonly onLost: (node: Node) => void;
}

/** While a node is away the others are asked who has its slots: random in this range, so that threads do not ask together. */
const ASK_MIN_MS = 150;
const ASK_MAX_MS = 350;
/** After a contradiction the pauses double up to this one. */
const ASK_LAST_MS = 8_000;
/** One that does not answer is not waited for: the next one may. */
const ANSWER_MS = 1_000;

/** The clients of one ClusterClient, one for each node that was needed so far; the first command opens it. */
export class ClusterNodes {
  readonly #options: NodesOptions;
  readonly #nodes = new Map<string, Node>();
  readonly #leaving = new Set<Client>();
  /** Asked for the map, be it that they have no slots. */
  readonly #asked = new Set<Node>();
  #isAskingAnother = false;
  readonly #unlisten: () => void;
  readonly #spares: SpareConnections<Node>;
  #timer: NodeJS.Timeout | undefined;
  #again: NodeJS.Timeout | undefined;

  constructor(options: NodesOptions) {
    this.#options = options;
    this.#unlisten = options.slots.listen(() => this.#mapChanged());
    this.#spares = new SpareConnections({
      ...options.cluster,
      isPrivate: options.isPrivate,
      nodes: this,
      leave: (node) => this.leave(node, { handingOver: false }),
    });
    if (options.cluster.redis.readFrom === "replica") this.#askAgain(ASK_LAST_MS);
  }

  [Symbol.iterator](): Iterator<Node> {
    return this.#nodes.values();
  }

  /** The one at this address, at first without a connection. */
  at(place: Place): Node {
    return this.#nodes.get(place.address) ?? this.#add(place);
  }

  isIn(node: Node): boolean {
    return this.#nodes.get(node.address) === node;
  }

  /** A replica of this master that serves at the moment; those that are not connected yet will be, for the next time. */
  replicaOf(master: Place): Node | undefined {
    const serving: Node[] = [];
    for (const place of this.#options.slots.replicasOf(master)) {
      const node = this.at(place);
      if (node.client.isAlive() && !node.isDown) serving.push(node);
      else if (node.client.state === "disconnected") node.client.connect().catch(() => {}); // its breaker sets the pace
    }
    return anyOf(serving);
  }

  /** A master, connected if one is, and the same one as long as it serves; not `avoided`, if there is another. */
  any(avoided?: Node): Node {
    const { slots } = this.#options;
    for (const node of this.#nodes.values())
      if (isOpen(node) && node !== avoided && !node.isDown && !slots.isReplica(node.address)) return node;
    const candidates = this.#candidates();
    return this.at(candidates.find(({ address }) => address !== avoided?.address) ?? candidates[0]!);
  }

  /** Connected to somebody, or, with the map known, to nobody yet. */
  get areAlive(): boolean {
    if (!this.#options.slots.isKnown) return false;
    for (const { client } of this.#nodes.values()) if (client.isAlive()) return true;
    return this.#nodes.size === 0 && this.#options.slots.isReached;
  }

  /** Learns the map from the first node that tells it, and reaches a node of the map. */
  async discover(leftMs: number): Promise<void> {
    const giveUpAt = monotonic() + leftMs;
    const { failures, isDone } = await this.#tryEach(this.#candidates(), giveUpAt, (place, ms) => this.#ask(place, ms));
    // Where no node serves, what one that does not serve tells is better than nothing.
    const told = failures.find(({ error }) => error instanceof NotServingError);
    if (!isDone) {
      if (!told) throw this.#unknown(failures);
      const asked = await this.#tryEach([told.place], giveUpAt, (place, ms) => this.#ask(place, ms, true));
      if (!asked.isDone) throw this.#unknown(asked.failures);
    }
    if (this.areAlive) return;
    const reached = await this.#tryEach(this.#options.slots.masters, giveUpAt, (place, ms) =>
      connectWithin(this.at(place), ms),
    );
    if (!reached.isDone) throw this.#unknown(reached.failures);
  }

  /** One after the other until one succeeds, each with an equal share of the time that is left. */
  async #tryEach(
    places: readonly Place[],
    giveUpAt: number,
    attempt: (place: Place, ms: number) => Promise<void>,
  ): Promise<{ failures: Failure[]; isDone: boolean }> {
    const failures: Failure[] = [];
    for (const [i, place] of places.entries()) {
      const shareMs = (giveUpAt - monotonic()) / (places.length - i);
      try {
        await attempt(place, Math.max(shareMs, 1));
        return { failures, isDone: true };
      } catch (error) {
        this.#options.life.throwIfAborted();
        failures.push({ place, error: error as Error });
      }
    }
    return { failures, isDone: false };
  }

  /** The map is contradicted: asks for it on a connection that is open already, now and again. */
  refresh(): void {
    this.#askForMap();
    this.#askAgain(ASK_MAX_MS);
  }

  /** This node said CLUSTERDOWN: the others know whether that is so, and until it serves again it counts as away. */
  suspect(node: Node): void {
    node.isDown = true;
    this.#watch();
    this.#askOthers();
  }

  /** Closes the client of a node; never rejects. With `handingOver` what it holds goes to whoever has its slots now. */
  leave(node: Node, { handingOver }: { handingOver: boolean }): void {
    if (!this.isIn(node)) return;
    this.#nodes.delete(node.address);
    node.isHandingOver = handingOver;
    const closed = node.client.close(this.#options.closeMs);
    node.isHandingOver = false;
    this.#leaving.add(node.client);
    if (handingOver) this.#options.onLost(node);
    void closed.then(() => this.#leaving.delete(node.client));
  }

  /** Never rejects. */
  async close(ms: number): Promise<void> {
    this.#unlisten();
    this.#spares.stop();
    clearTimeout(this.#timer);
    clearTimeout(this.#again);
    const clients = [...this.#nodes.values()].map(({ client }) => client);
    await Promise.all([...clients, ...this.#leaving].map((client) => client.close(ms)));
  }

  #add(place: Place): Node {
    const { cluster, life } = this.#options;
    const { role, redis } = cluster;
    const isChecked = role !== "subscriber" && role !== "owned"; // as those of one server are, when they are handed out
    const client = new Client({
      ...cluster,
      isNode: true,
      ...(isChecked && { idleCheckMs: redis.idleCheckMs }),
      redis: { ...redis, host: place.host, port: place.port },
      logger: withFields(cluster.logger, { address: place.address }),
      gate: cluster.gate.node(place),
      isFurther: () => [...this.#nodes.values()].some(({ client: other }) => other.isAlive()),
      // One attempt for who asks for the map; with commands to send it goes on for as long as it takes.
      retry: { ...cluster.retry, attempts: 1 },
      onState: (state, previous) => this.#stateChanged(node, state, previous),
    });
    const node: Node = {
      ...place,
      client,
      isHandingOver: false,
      isDown: false,
      isReadOnly: false,
      slots: () => answerInTime(client.redis.own("cluster", "slots")),
      isServing: () => isServing(client),
    };
    if (life.aborted) void client.close(0);
    this.#nodes.set(place.address, node);
    return node;
  }

  #stateChanged(node: Node, state: ConnectionState, previous: ConnectionState): void {
    // Its end is not that of the whole.
    this.#options.cluster.onState?.(state === "closed" ? "disconnected" : state, previous);
    if (state === "connected") {
      if (this.#options.slots.has(node.address)) this.#options.slots.isReached = true;
      node.isReadOnly = false;
      this.#agreeOnRole(node); // before what waited for the connection
    }
    if (state !== "connecting") return;
    this.#watch();
    if (previous !== "connected") return;
    this.#options.onLost(node);
    // What it held can be read elsewhere. Not in this turn: the client is in the midst of its loss.
    if (this.#options.slots.isReplica(node.address)) queueMicrotask(() => this.leave(node, { handingOver: true }));
  }

  /**
   * Only a node that the map calls a replica is told READONLY: a demoted master would answer scripts itself, where they
   * have to be redirected. Inside a MULTI nothing is said; what the node redirects or refuses then brings the next map.
   */
  #agreeOnRole(node: Node): void {
    const { slots, cluster } = this.#options;
    const isReplica = slots.isReplica(node.address);
    if (!isOpen(node) || node.isReadOnly === isReplica) return;
    node.isReadOnly = isReplica;
    node.client.redis.own(isReplica ? "readonly" : "readwrite").catch((error: Error) => {
      const fields = { name: cluster.name, address: node.address, code: replyCode(error) };
      if (isServed(error)) cluster.logger.warn("replicas cannot be read, masters are", fields);
    });
  }

  /**
   * Others learn only half a node timeout later whose replica a demoted master is: a map told before lacks it. A replica
   * that is away is in no map either, and nothing tells of its return: where replicas are read, this goes on for good.
   */
  #askAgain(ms: number): void {
    clearTimeout(this.#again);
    const { life, slots, cluster } = this.#options;
    if (life.aborted) return;
    const ask = (): void => {
      if (!slots.wasAskedWithin(ms / 2)) this.#askForMap(); // else by another client of the thread
      if (ms < ASK_LAST_MS || cluster.redis.readFrom === "replica") this.#askAgain(Math.min(2 * ms, ASK_LAST_MS));
    };
    this.#again = setTimeout(ask, randomBetween(ms / 2, ms)).unref();
  }

  /** As long as one is away. */
  #watch(): void {
    if (this.#timer !== undefined || this.#options.life.aborted) return;
    const ms = randomBetween(ASK_MIN_MS, ASK_MAX_MS);
    this.#timer = setTimeout(() => this.#look(), ms).unref();
  }

  #look(): void {
    this.#timer = undefined;
    const nodes = [...this.#nodes.values()];
    if (nodes.every(({ client, isDown }) => client.state !== "connecting" && !isDown)) return;
    this.#watch();
    for (const node of nodes) if (node.isDown && isOpen(node)) void this.#examine(node);
    this.#askOthers();
  }

  #askOthers(): void {
    const { slots, cluster } = this.#options;
    if ([...this.#nodes.values()].some(({ client, isDown }) => client.isAlive() && !isDown)) return this.#askForMap();
    // Nobody is left to ask: one that was not needed so far.
    const others = [...slots.masters, ...cluster.redis.clusterNodes!.map((node) => slots.at(node))];
    const other = anyOf(others.filter(({ address }) => !this.#nodes.has(address)));
    if (!other || this.#isAskingAnother) return;
    this.#isAskingAnother = true;
    void this.#ask(other, cluster.redis.connectTimeoutMs)
      .catch(() => {}) // the next look asks another
      .finally(() => (this.#isAskingAnother = false));
  }

  #askForMap(): void {
    const informant = anyOf([...this.#nodes.values()].filter((node) => isOpen(node) && !node.isDown));
    if (informant) this.#options.slots.refresh(informant).catch(() => {}); // the next look asks another
  }

  /** Whether a node that said CLUSTERDOWN serves again. Its breaker tells all threads meanwhile. */
  async #examine(node: Node): Promise<void> {
    const isDown = await node.isServing().then(
      (isUp) => !isUp,
      () => undefined, // its client finds out why it does not answer
    );
    if (isDown === undefined || !this.isIn(node)) return;
    node.isDown = isDown;
    const breaker = this.#options.cluster.gate.nodeBreaker(node);
    if (isDown) breaker.hold();
    else breaker.dismiss();
  }

  /** What is open to a node without slots is closed again. */
  async #ask(place: Place, ms: number, inAnyState = false): Promise<void> {
    const { slots } = this.#options;
    const isNew = !this.#nodes.has(place.address);
    const node = this.at(place);
    this.#asked.add(node);
    try {
      await connectWithin(node, ms);
      await slots.refresh(node, inAnyState);
    } catch (error) {
      if (isNew) this.leave(node, { handingOver: true });
      throw error;
    } finally {
      this.#asked.delete(node);
      if (slots.isKnown && !slots.has(node.address)) this.leave(node, { handingOver: true });
    }
  }

  /** Nodes that have slots, then those that are listed; who is known to be away comes last. */
  #candidates(): Place[] {
    const { slots, cluster } = this.#options;
    const all = new Set([...shuffled(slots.masters), ...cluster.redis.clusterNodes!.map((node) => slots.at(node))]);
    const isAway = (place: Place): number => Number(cluster.gate.nodeBreaker(place).state !== "closed");
    return [...all].toSorted((a, b) => isAway(a) - isAway(b));
  }

  #mapChanged(): void {
    const { slots, cluster } = this.#options;
    for (const node of this.#nodes.values()) {
      this.#agreeOnRole(node);
      if (slots.has(node.address) || this.#asked.has(node)) continue;
      this.leave(node, { handingOver: true });
      cluster.gate.nodeBreaker(node).dismiss();
    }
  }

  #unknown(failures: readonly Failure[]): Error {
    const refused = failures.find(({ error }) => error instanceof AuthFailedError);
    if (refused && failures.every(({ error }) => error instanceof AuthFailedError)) return refused.error;
    if (failures.every(({ error }) => isUnknown(error))) {
      const addresses = failures.map(({ place }) => place.address).join(", ");
      return misled(`redis.clusterNodes: no node of a Cluster is at ${addresses}, but a single server or a Sentinel`);
    }
    const told = failures.map(({ place, error }) => `${place.address} ${errorReason(error)}`);
    return new ConnectFailedError(
      `no connection for ${this.#options.cluster.name} to the Cluster (${told.join("; ")})`,
      { outcome: "not-sent", cause: failures.at(-1)?.error },
    );
  }
}

interface Failure {
  readonly place: Place;
  readonly error: Error;
}

/** Connected, and in no transaction, of which what the library itself sends would become a part. */
function isOpen({ client }: Node): boolean {
  return client.isAlive() && !client.inTransaction;
}

function connectWithin({ client }: Node, ms: number): Promise<void> {
  return within(
    client.connect(),
    ms,
    () => client.lastFailure ?? new Error(`no connection within ${Math.round(ms)} ms`),
  );
}

function answerInTime(answer: Promise<unknown>): Promise<unknown> {
  return within(answer, ANSWER_MS, () => new Error(`no answer within ${ANSWER_MS} ms`));
}

async function isServing({ redis }: Client): Promise<boolean> {
  try {
    return !/cluster_state:fail/.test(String(await answerInTime(redis.own("cluster", "info"))));
  } catch (error) {
    if (isReplyError(error)) return true; // this user may not ask
    throw error;
  }
}

function anyOf<T>(list: readonly T[]): T | undefined {
  return list[Math.floor(Math.random() * list.length)];
}

function shuffled<T>(list: readonly T[]): T[] {
  return list
    .map((item) => ({ item, order: Math.random() }))
    .toSorted((a, b) => a.order - b.order)
    .map(({ item }) => item);
}
