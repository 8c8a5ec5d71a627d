import { Redis } from "ioredis";
import { eventually } from "../support/gate.js";
import { type Proxy, startProxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";
import { NAME, Watched } from "../support/sentinel.js";
import type { Field, PlainClient, Shard } from "./field.js";

const SETTLE_MS = 60_000;
const HOST = "127.0.0.1";

/** A master, its replica and three sentinels. */
export class SentinelField implements Field {
  readonly trouble = new Set<RedisServer>();
  readonly #watched: Watched;
  readonly #ways: ReadonlyMap<RedisServer, Proxy>;

  static async start(): Promise<SentinelField> {
    const watched = await Watched.start({ bothArgs: ["--appendonly", "yes", "--appendfsync", "no"] });
    const nodes = [watched.master, watched.replica];
    const ways = await Promise.all(nodes.map(async (node) => [node, await startProxy(node.port)] as const));
    return new SentinelField(watched, new Map(ways));
  }

  private constructor(watched: Watched, ways: ReadonlyMap<RedisServer, Proxy>) {
    this.#watched = watched;
    this.#ways = ways;
  }

  get nodes(): readonly RedisServer[] {
    return [this.#watched.master, this.#watched.replica];
  }

  get sentinels(): readonly RedisServer[] {
    return this.#watched.sentinels;
  }

  get redis(): Field["redis"] {
    return { ...this.#watched.redis, natMap: this.#natMap() };
  }

  wayTo(node: RedisServer): Proxy {
    return this.#ways.get(node)!;
  }

  async shards(): Promise<Shard[]> {
    const port = await this.#masterPort(this.sentinels[0]!);
    const master = this.nodes.find((node) => node.port === port)!;
    return [{ master, replica: this.nodes.find((node) => node !== master)!, slots: [] }];
  }

  keyOn(_shard: Shard, name: string): string {
    return name;
  }

  async settled(): Promise<void> {
    try {
      await eventually(() => this.#isSettled(), SETTLE_MS, "the sentinels agree on a living master with a replica");
    } catch (error) {
      for (const { admin, port } of this.sentinels)
        console.error(`${port} says ${JSON.stringify(await admin.call("SENTINEL", "MASTER", NAME))}`);
      throw error;
    }
  }

  async counts(keys: readonly string[]): Promise<number[]> {
    const [{ master }] = (await this.shards()) as [Shard];
    return (await master.admin.mget(...keys)).map(Number);
  }

  plainClient(): PlainClient {
    const sentinels = this.sentinels.map(({ port }) => ({ host: HOST, port }));
    return new Redis({ sentinels, name: NAME, natMap: this.#natMap() }).on("error", () => undefined);
  }

  async stop(): Promise<void> {
    for (const way of this.#ways.values()) way.close();
    await this.#watched[Symbol.asyncDispose]();
  }

  #natMap(): Record<string, { host: string; port: number }> {
    return Object.fromEntries(
      this.nodes.map((node) => [`${HOST}:${node.port}`, { host: HOST, port: this.wayTo(node).port }]),
    );
  }

  /** The sentinels make the old master a replica only after 10 to 20 s: this does it as soon as they agree. */
  async #isSettled(): Promise<boolean> {
    if (!(await this.#isAgreed())) return false;
    const [{ master, replica }] = (await this.shards()) as [Shard];
    const told = await replica.admin.info("replication");
    if (!told.includes(`master_port:${master.port}`)) await replica.admin.call("REPLICAOF", HOST, String(master.port));
    return told.includes("master_link_status:up") && (await this.#isReplicaKnown());
  }

  async #isAgreed(): Promise<boolean> {
    const ports = await Promise.all(this.sentinels.map((sentinel) => this.#masterPort(sentinel)));
    const master = this.nodes.find(({ port }) => port === ports[0]);
    if (!master || ports.some((port) => port !== master.port)) return false;
    const roles = await Promise.all(this.nodes.map(({ admin }) => admin.info("replication")));
    // If a failover began while the last one was tidied up here, two servers are replicas of each other.
    if (roles.every((role) => role.includes("role:slave"))) await master.admin.call("REPLICAOF", "NO", "ONE");
    const flags = await Promise.all(this.sentinels.map(({ admin }) => admin.call("SENTINEL", "MASTER", NAME)));
    if (flags.some((one) => /[so]_down|failover_in_progress/.test(JSON.stringify(one)))) return false;
    return roles[this.nodes.indexOf(master)]!.includes("role:master");
  }

  async #isReplicaKnown(): Promise<boolean> {
    const [{ replica }] = (await this.shards()) as [Shard];
    const seen = await Promise.all(
      this.sentinels.map(({ admin }) => admin.call("SENTINEL", "REPLICAS", NAME) as Promise<unknown[]>),
    );
    const isGood = (list: unknown[]): boolean => {
      const text = JSON.stringify(list);
      return text.includes(`"${replica.port}"`) && !/"[^"]*(s_down|disconnected)[^"]*"/.test(text);
    };
    const masters = await Promise.all(this.sentinels.map(({ admin }) => admin.call("SENTINEL", "MASTER", NAME)));
    return seen.every(isGood) && masters.every((one) => !/[so]_down|failover_in_progress/.test(JSON.stringify(one)));
  }

  async #masterPort({ admin }: RedisServer): Promise<number> {
    const address = await admin.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME);
    return Number((address as string[] | null)?.[1]);
  }
}
