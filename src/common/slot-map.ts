import { addressOf } from "./endpoint.js";
import type { Endpoint, RedisConfig } from "./options.js";
import { monotonic } from "./time.js";

/** A node that has slots, or is said to have one. */
export interface Master extends Endpoint {
  readonly address: string;
}

/** Whoever has a connection to this node, and asks it. */
export interface Informant {
  readonly host: string;
  /** Its answer to CLUSTER SLOTS. */
  slots(): Promise<unknown>;
}

/** Each MOVED tells of its own slot by itself: the whole map is not asked for more often than this. */
const SPACING_MS = 200;

/** Which node has which slot, as far as this thread knows: all its clients share what they found out. */
export class SlotMap {
  readonly #known = new Map<string, Master>();
  readonly #owners: (Master | undefined)[] = [];
  readonly #listeners = new Set<() => void>();
  #masters: ReadonlyMap<string, Master> = new Map();
  #asking: Promise<void> | undefined;
  #askedAt = -Infinity;

  static of({ clusterNodes }: RedisConfig): SlotMap {
    if (!clusterNodes) throw new Error("without redis.clusterNodes there is no map");
    let made = all.get(clusterNodes);
    if (!made) all.set(clusterNodes, (made = new SlotMap()));
    return made;
  }

  get isKnown(): boolean {
    return this.#masters.size > 0;
  }

  get masters(): readonly Master[] {
    return [...this.#masters.values()];
  }

  /** Whether the node has slots. */
  has(address: string): boolean {
    return this.#masters.has(address);
  }

  owner(slot: number): Master | undefined {
    return this.#owners[slot];
  }

  /** The one object for an address: two that look alike are the same. */
  at({ host, port }: Endpoint): Master {
    const address = addressOf({ host, port });
    let known = this.#known.get(address);
    if (!known) this.#known.set(address, (known = { host, port, address }));
    return known;
  }

  /** A node said so itself. */
  moved(slot: number, to: Master): void {
    this.#owners[slot] = to;
  }

  /** Calls `onChange` after each new map; returns the way to stop that. */
  listen(onChange: () => void): () => void {
    this.#listeners.add(onChange);
    return () => this.#listeners.delete(onChange);
  }

  /** Asks for the whole map, unless that was done just now; who asks meanwhile shares the answer. */
  refresh(informant: Informant): Promise<void> {
    if (this.#asking) return this.#asking;
    if (this.isKnown && monotonic() - this.#askedAt < SPACING_MS) return Promise.resolve();
    this.#askedAt = monotonic();
    return (this.#asking = this.#ask(informant).finally(() => (this.#asking = undefined)));
  }

  async #ask(informant: Informant): Promise<void> {
    this.#take(await informant.slots(), informant.host);
  }

  /** Rows of first slot, last slot, master, replicas; a node that does not know its own host is where it was asked. */
  #take(reply: unknown, askedHost: string): void {
    const rows = Array.isArray(reply) ? (reply as [number, number, [string | null, number]][]) : [];
    if (rows.length === 0) throw new Error("the node knows of no slots: has the Cluster been made?");
    const masters = new Map<string, Master>();
    this.#owners.length = 0;
    for (const [first, last, [host, port]] of rows) {
      const master = this.at({ host: host || askedHost, port: Number(port) });
      masters.set(master.address, master);
      for (let slot = Number(first); slot <= Number(last); slot++) this.#owners[slot] = master;
    }
    this.#masters = masters;
    for (const address of this.#known.keys()) if (!masters.has(address)) this.#known.delete(address);
    for (const onChange of this.#listeners) onChange();
  }
}

const all = new WeakMap<readonly Endpoint[], SlotMap>();
