import { addressOf, translated } from "../config/endpoint.js";
import type { Endpoint, RedisConfig } from "../config/options.js";
import { monotonic } from "../core/clock.js";

export interface NodeEndpoint extends Endpoint {
  readonly address: string;
}

/** The whole map is asked for at most once in this time: each MOVED tells of its own slot anyway. */
const SPACING_MS = 200;

/** Which node has which slot, as far as this thread knows. All clients of the thread share what they found out. */
export class SlotMap {
  readonly #redis: RedisConfig;
  readonly #known = new Map<string, NodeEndpoint>();
  readonly #owners: (NodeEndpoint | undefined)[] = [];
  readonly #listeners = new Set<() => void>();
  /** A client of this thread was connected to a node of the map, so its addresses can be reached from here. */
  isReached = false;
  #masters: ReadonlyMap<string, NodeEndpoint> = new Map();
  /** By the address of their master; empty unless replicas are read from. */
  #replicas: ReadonlyMap<string, readonly NodeEndpoint[]> = new Map();
  #replicaAddresses: ReadonlySet<string> = new Set();
  #asking: Promise<void> | undefined;
  #askedAt = -Infinity;

  static of(redis: RedisConfig): SlotMap {
    const { clusterNodes } = redis;
    if (!clusterNodes) throw new Error("without redis.clusterNodes there is no slot map");
    let made = maps.get(clusterNodes);
    if (!made) maps.set(clusterNodes, (made = new SlotMap(redis)));
    return made;
  }

  private constructor(redis: RedisConfig) {
    this.#redis = redis;
  }

  get isKnown(): boolean {
    return this.#masters.size > 0;
  }

  get masters(): readonly NodeEndpoint[] {
    return [...this.#masters.values()];
  }

  /** How many nodes are needed: masters, and replicas that are read from. */
  get size(): number {
    return this.#masters.size + this.#replicaAddresses.size;
  }

  /** Whether the node is needed. */
  has(address: string): boolean {
    return this.#masters.has(address) || this.#replicaAddresses.has(address);
  }

  /** Whether the node is a replica that is read from. */
  isReplica(address: string): boolean {
    return this.#replicaAddresses.has(address);
  }

  /** The replicas that are read from in place of this master. */
  replicasOf({ address }: NodeEndpoint): readonly NodeEndpoint[] {
    return this.#replicas.get(address) ?? [];
  }

  owner(slot: number): NodeEndpoint | undefined {
    return this.#owners[slot];
  }

  /** Always the same object for one address. */
  at({ host, port }: Endpoint): NodeEndpoint {
    const address = addressOf({ host, port });
    let known = this.#known.get(address);
    if (!known) this.#known.set(address, (known = { host, port, address }));
    return known;
  }

  /** As `at`, for an address that comes from a node. */
  atAnnounced(announced: Endpoint): NodeEndpoint {
    return this.at(translated(announced, this.#redis));
  }

  /** A node said in an answer that the slot has a new owner. */
  moved(slot: number, to: NodeEndpoint): void {
    this.#owners[slot] = to;
  }

  wasAskedWithin(ms: number): boolean {
    return monotonic() - this.#askedAt < ms;
  }

  /** Calls `onChange` after each new map, until the returned function is called. */
  listen(onChange: () => void): () => void {
    this.#listeners.add(onChange);
    return () => this.#listeners.delete(onChange);
  }

  /**
   * Takes the map from `ask`, which asks the node at `host` for CLUSTER SLOTS. Concurrent callers share one answer, and
   * a map that was asked for just now is not asked for again.
   */
  refresh(host: string, ask: () => Promise<unknown>): Promise<void> {
    if (this.#asking) return this.#asking;
    if (this.isKnown && this.wasAskedWithin(SPACING_MS)) return Promise.resolve();
    this.#askedAt = monotonic();
    const taken = ask().then((reply) => this.#take(reply, host));
    return (this.#asking = taken.finally(() => (this.#asking = undefined)));
  }

  /** Each row holds first slot, last slot, master and replicas. A node without a host is at the host that was asked. */
  #take(reply: unknown, askedHost: string): void {
    const rows = Array.isArray(reply) ? (reply as [number, number, Announced, ...Announced[]][]) : [];
    if (rows.length === 0) throw new Error("the node knows of no slots: has the Cluster been made?");
    const endpointOf = ([host, port]: Announced): NodeEndpoint =>
      this.atAnnounced({ host: host || askedHost, port: Number(port) });
    const areRead = this.#redis.readFrom === "replica";
    const [masters, replicas] = [new Map<string, NodeEndpoint>(), new Map<string, readonly NodeEndpoint[]>()];
    this.#owners.length = 0;
    for (const [first, last, announced, ...copies] of rows) {
      const master = endpointOf(announced);
      masters.set(master.address, master);
      if (areRead) replicas.set(master.address, copies.map(endpointOf));
      for (let slot = Number(first); slot <= Number(last); slot++) this.#owners[slot] = master;
    }
    this.#masters = masters;
    this.#replicas = replicas;
    this.#replicaAddresses = new Set([...replicas.values()].flat().map(({ address }) => address));
    for (const address of this.#known.keys()) if (!this.has(address)) this.#known.delete(address);
    for (const onChange of this.#listeners) onChange();
  }
}

type Announced = readonly [host: string | null, port: number];

const maps = new WeakMap<readonly Endpoint[], SlotMap>();
