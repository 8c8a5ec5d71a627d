import { addressOf, translated } from "../config/endpoint.js";
import type { Endpoint, RedisConfig } from "../config/options.js";
import { monotonic } from "../core/clock.js";

/** Where a node is. */
export interface Place extends Endpoint {
  readonly address: string;
}

/** Whoever has a connection to this node, and asks it. */
export interface Informant {
  readonly host: string;
  /** Its answer to CLUSTER SLOTS. */
  slots(): Promise<unknown>;
  /** Whether it says that the Cluster serves. A node that has lost the others does not, and tells an old map. */
  isServing(): Promise<boolean>;
}

/** Each MOVED tells of its own slot by itself: the whole map is not asked for more often than this. */
const SPACING_MS = 200;

/** Which node has which slot, as far as this thread knows: all its clients share what they found out. */
export class SlotMap {
  readonly #redis: RedisConfig;
  readonly #known = new Map<string, Place>();
  readonly #owners: (Place | undefined)[] = [];
  readonly #listeners = new Set<() => void>();
  /** A client of this thread has been connected to a node of the map: its addresses lead somewhere. */
  isReached = false;
  #masters: ReadonlyMap<string, Place> = new Map();
  /** By their masters' addresses; none unless they are read from. */
  #replicas: ReadonlyMap<string, readonly Place[]> = new Map();
  #replicaAddresses: ReadonlySet<string> = new Set();
  #asking: Promise<void> | undefined;
  #askedAt = -Infinity;

  static of(redis: RedisConfig): SlotMap {
    const { clusterNodes } = redis;
    if (!clusterNodes) throw new Error("without redis.clusterNodes there is no map");
    let made = all.get(clusterNodes);
    if (!made) all.set(clusterNodes, (made = new SlotMap(redis)));
    return made;
  }

  private constructor(redis: RedisConfig) {
    this.#redis = redis;
  }

  get isKnown(): boolean {
    return this.#masters.size > 0;
  }

  get masters(): readonly Place[] {
    return [...this.#masters.values()];
  }

  /** How many nodes are needed: masters, and replicas that are read from. */
  get size(): number {
    return this.#masters.size + this.#replicaAddresses.size;
  }

  /** Whether the node has slots, or copies that are read. */
  has(address: string): boolean {
    return this.#masters.has(address) || this.#replicaAddresses.has(address);
  }

  /** Whether the node is read from, and nothing else. */
  isReplica(address: string): boolean {
    return this.#replicaAddresses.has(address);
  }

  /** Who is read from in place of this master. */
  replicasOf({ address }: Place): readonly Place[] {
    return this.#replicas.get(address) ?? [];
  }

  owner(slot: number): Place | undefined {
    return this.#owners[slot];
  }

  /** As `at`, for an address that a node has told. */
  toldAt(told: Endpoint): Place {
    return this.at(translated(told, this.#redis));
  }

  /** The one object for an address: two that look alike are the same. */
  at({ host, port }: Endpoint): Place {
    const address = addressOf({ host, port });
    let known = this.#known.get(address);
    if (!known) this.#known.set(address, (known = { host, port, address }));
    return known;
  }

  /** A node said so itself. */
  moved(slot: number, to: Place): void {
    this.#owners[slot] = to;
  }

  wasAskedWithin(ms: number): boolean {
    return monotonic() - this.#askedAt < ms;
  }

  /** Calls `onChange` after each new map; returns the way to stop that. */
  listen(onChange: () => void): () => void {
    this.#listeners.add(onChange);
    return () => this.#listeners.delete(onChange);
  }

  /**
   * Asks for the whole map, unless that was done just now; who asks meanwhile shares the answer. Rejects where the
   * informant says that the Cluster does not serve, unless `inAnyState`: no other node says anything better.
   */
  refresh(informant: Informant, inAnyState = false): Promise<void> {
    if (this.#asking) return this.#asking;
    if (this.isKnown && this.wasAskedWithin(SPACING_MS)) return Promise.resolve();
    this.#askedAt = monotonic();
    return (this.#asking = this.#ask(informant, inAnyState).finally(() => (this.#asking = undefined)));
  }

  async #ask(informant: Informant, inAnyState: boolean): Promise<void> {
    const [slots, isServing] = await Promise.all([informant.slots(), inAnyState || informant.isServing()]);
    if (!isServing) throw new NotServingError("says that the Cluster does not serve");
    this.#take(slots, informant.host);
  }

  /** Rows of first slot, last slot, master, replicas; a node that does not know its own host is where it was asked. */
  #take(reply: unknown, askedHost: string): void {
    const rows = Array.isArray(reply) ? (reply as [number, number, Told, ...Told[]][]) : [];
    if (rows.length === 0) throw new Error("the node knows of no slots: has the Cluster been made?");
    const placeOf = ([host, port]: Told): Place => this.toldAt({ host: host || askedHost, port: Number(port) });
    const areRead = this.#redis.readFrom === "replica";
    const [masters, replicas] = [new Map<string, Place>(), new Map<string, readonly Place[]>()];
    this.#owners.length = 0;
    for (const [first, last, told, ...copies] of rows) {
      const master = placeOf(told);
      masters.set(master.address, master);
      if (areRead) replicas.set(master.address, copies.map(placeOf));
      for (let slot = Number(first); slot <= Number(last); slot++) this.#owners[slot] = master;
    }
    this.#masters = masters;
    this.#replicas = replicas;
    this.#replicaAddresses = new Set([...replicas.values()].flat().map(({ address }) => address));
    for (const address of this.#known.keys()) if (!this.has(address)) this.#known.delete(address);
    for (const onChange of this.#listeners) onChange();
  }
}

export class NotServingError extends Error {}

type Told = readonly [host: string | null, port: number];

const all = new WeakMap<readonly Endpoint[], SlotMap>();
