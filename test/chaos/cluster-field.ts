import { Cluster as IoredisCluster } from "ioredis";
import { Cluster, slotOf } from "../support/cluster.js";
import { eventually } from "../support/gate.js";
import { type Proxy, startProxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";
import type { Field, PlainClient, Shard } from "./field.js";

type SlotRow = readonly [number, number, ...(readonly [string, number, ...unknown[]])[]];

const SETTLE_MS = 60_000;
const REPAIR_AFTER_MS = 15_000;
const HOST = "127.0.0.1";
const BUS_PORT = "cluster-announce-bus-port";

/** Three masters with a replica each. */
export class ClusterField implements Field {
  readonly trouble = new Set<RedisServer>();
  readonly sentinels: readonly RedisServer[] = [];
  readonly cluster: Cluster;
  readonly #ways: ReadonlyMap<RedisServer, Proxy>;
  /** Nodes whose masters had given them up, with their keys: nothing is known about them. */
  readonly #repaired = new Set<number>();
  /** The address of each node's bus for the others: a restarted node has forgotten it. */
  readonly #busPorts = new Map<RedisServer, string>();

  static async start(): Promise<ClusterField> {
    // A killed master comes back with its acknowledged writes, because the kernel keeps what a process wrote.
    const flags = { appendonly: "yes", appendfsync: "no" };
    const cluster = await Cluster.start({ replicas: 1, hasBus: true, flags });
    const ways = await Promise.all(cluster.nodes.map(async (node) => [node, await startProxy(node.port)] as const));
    await cluster.allowPartial();
    const field = new ClusterField(cluster, new Map(ways));
    for (const node of field.nodes) field.#busPorts.set(node, (await node.admin.config("GET", BUS_PORT))[1]!);
    return field;
  }

  private constructor(cluster: Cluster, ways: ReadonlyMap<RedisServer, Proxy>) {
    this.cluster = cluster;
    this.#ways = ways;
  }

  get nodes(): readonly RedisServer[] {
    return this.cluster.nodes;
  }

  get redis(): Field["redis"] {
    return { port: undefined, clusterNodes: this.#listed(), natMap: this.#natMap() };
  }

  wayTo(node: RedisServer): Proxy {
    return this.#ways.get(node)!;
  }

  async shards(): Promise<Shard[]> {
    const asked = this.nodes.find((node) => node.isRunning && !this.trouble.has(node))!;
    const rows = (await asked.admin.cluster("SLOTS")) as readonly SlotRow[];
    const byMaster = new Map<RedisServer, { replica: RedisServer; slots: [number, number][] }>();
    for (const [first, last, ...members] of rows) {
      const [master, replica] = members.map(([, port]) => this.nodes.find((node) => node.port === port)!);
      const known = byMaster.get(master!);
      if (known) known.slots.push([first, last]);
      else byMaster.set(master!, { replica: replica!, slots: [[first, last]] });
    }
    return [...byMaster]
      .map(([master, rest]) => ({ master, ...rest }))
      .toSorted((a, b) => a.slots[0]![0] - b.slots[0]![0]);
  }

  keyOn({ slots }: Shard, name: string): string {
    for (let i = 0; ; i++) {
      const key = `{${name}:${i}}`;
      const slot = slotOf(key);
      if (slots.some(([first, last]) => first <= slot && slot <= last)) return key;
    }
  }

  async settled(): Promise<void> {
    for (const [{ admin }, port] of this.#busPorts) await admin.config("SET", BUS_PORT, port);
    try {
      await eventually(() => this.#isWhole(), REPAIR_AFTER_MS).catch(() => this.#repair());
      await eventually(() => this.#isWhole(), SETTLE_MS, "every node of the Cluster is in its place");
    } catch (error) {
      for (const { admin, port } of this.nodes) console.error(`${port} says\n${String(await admin.cluster("NODES"))}`);
      throw error;
    }
  }

  async counts(keys: readonly string[]): Promise<number[]> {
    const shards = await this.shards();
    const owners: RedisServer[] = [];
    for (const { master, slots } of shards)
      for (const [first, last] of slots) for (let slot = first; slot <= last; slot++) owners[slot] = master;
    const count = async (key: string): Promise<number> =>
      this.#repaired.has(slotOf(key)) ? NaN : Number((await owners[slotOf(key)]!.admin.get(key)) ?? 0);
    return await Promise.all(keys.map(count));
  }

  plainClient(): PlainClient {
    return new IoredisCluster(this.#listed(), { natMap: this.#natMap() }).on("error", () => undefined);
  }

  async stop(): Promise<void> {
    for (const way of this.#ways.values()) way.close();
    await this.cluster[Symbol.asyncDispose]();
  }

  #listed(): { host: string; port: number }[] {
    return this.nodes.map((node) => ({ host: HOST, port: this.wayTo(node).port }));
  }

  #natMap(): Record<string, { host: string; port: number }> {
    return Object.fromEntries(
      this.nodes.map((node) => [`${HOST}:${node.port}`, { host: HOST, port: this.wayTo(node).port }]),
    );
  }

  /** Every node knows every other one, and the same owners of all slots. */
  async isAgreed(): Promise<boolean> {
    const lists = await Promise.all(this.nodes.map(({ admin }) => admin.cluster("NODES")));
    const knowsAll = (list: string): boolean =>
      list.trim().split("\n").length === this.nodes.length &&
      !/handshake|noaddr|fail|disconnected/.test(list) &&
      [...this.#busPorts].every(([{ port }, busPort]) => list.includes(`:${port}@${busPort}`));
    if (!lists.map(String).every(knowsAll)) return false;
    const maps = await Promise.all(this.nodes.map(({ admin }) => admin.cluster("SLOTS")));
    return maps.every((map) => sameOwners(map, maps[0]!));
  }

  /** After a move and a failover, Redis 7.0 can forget that a slot is its own, while all others say so. */
  async #repair(): Promise<void> {
    const owners = await Promise.all(this.nodes.map(({ admin }) => ownersBySlot(admin)));
    for (const [at, { admin, port }] of this.nodes.entries()) {
      for (const [slot, owner] of owners.flatMap((others) => [...others])) {
        if (owner !== port || owners[at]!.has(slot)) continue;
        owners[at]!.set(slot, port);
        this.#repaired.add(slot);
        console.log(`slot ${slot} is given back to ${port}`);
        await admin.cluster("ADDSLOTS", slot);
      }
    }
  }

  async #isWhole(): Promise<boolean> {
    const infos = await Promise.all(this.nodes.map(({ admin }) => admin.cluster("INFO")));
    const isOk = (info: unknown): boolean =>
      new RegExp(`cluster_state:ok[^]*cluster_known_nodes:${this.nodes.length}\\b`).test(String(info));
    if (!infos.every(isOk)) return false;
    const links = await Promise.all(this.nodes.map(({ admin }) => admin.info("replication")));
    const inSync = links.filter((link) => /role:slave[^]*master_link_status:up/.test(link)).length;
    if (inSync !== this.nodes.length / 2) return false;
    return isComplete(await this.nodes[0]!.admin.cluster("SLOTS")) && (await this.isAgreed());
  }
}

/** The ports of the masters by their slots, as one node reports them. */
async function ownersBySlot(admin: RedisServer["admin"]): Promise<Map<number, number>> {
  const owners = new Map<number, number>();
  for (const [first, last, master] of (await admin.cluster("SLOTS")) as readonly SlotRow[])
    for (let slot = first; slot <= last; slot++) owners.set(slot, master![1]);
  return owners;
}

function isComplete(map: readonly SlotRow[]): boolean {
  // First, last, master, replica.
  return map.length >= 3 && map.every((row) => row.length === 4);
}

function sameOwners(map: readonly SlotRow[], other: readonly SlotRow[]): boolean {
  const owners = (rows: readonly SlotRow[]): string =>
    rows
      .map(([first, last, master]) => `${first}-${last}:${master?.[1]}`)
      .toSorted()
      .join();
  return owners(map) === owners(other);
}
