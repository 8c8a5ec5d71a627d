import assert from "node:assert/strict";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { Command } from "ioredis";
import { Bus } from "./bus.js";
import type { Certificates } from "./certificates.js";
import { eventually } from "./gate.js";
import { beginLeakCheck, leakCheck } from "./leak-check.js";
import { freePort, launch, type RedisServer, untilInSync } from "./redis-server.js";

export interface ClusterShape {
  readonly masters?: number;
  /** For each master: none or one. */
  readonly replicas?: 0 | 1;
  /** The password of every user, and between the nodes. */
  readonly password?: string;
  /** TLS in place of plain TCP, also between the nodes. */
  readonly certificates?: Certificates;
  /** Nodes can be cut off from each other by `bus`. */
  readonly hasBus?: boolean;
  /** Commands that the nodes do not know, as older servers do not. */
  readonly without?: readonly string[];
  /** More settings of each node. */
  readonly flags?: Readonly<Record<string, string | number>>;
}

const SLOTS = 16_384;
/** The time until a node counts as dead. It is longer without replicas, because then a busy machine needs more time. */
const NODE_TIMEOUT_MS = { withReplicas: 1_000, alone: 5_000 };

const GREET_AGAIN_MS = 3_000;
/** A forced failover is tried again, because on a busy machine the masters vote after the 5 s that a replica waits. */
const FAIL_OVER_AGAIN_MS = 6_000;

/** A real Cluster on free loopback ports. Each master has an equal share of the slots, in the order of `masters`. */
export class Cluster implements AsyncDisposable {
  readonly masters: readonly RedisServer[];
  readonly replicas: readonly RedisServer[];
  /** Set if the Cluster was made with `hasBus`. */
  readonly bus = new Bus();

  static async start({ masters = 3, replicas = 0, ...shape }: ClusterShape = {}): Promise<Cluster> {
    const starting = Array.from({ length: masters * (1 + replicas) }, () => startNode(shape, replicas));
    const started = await Promise.allSettled(starting);
    const nodes = started
      .filter(({ status }) => status === "fulfilled")
      .map((one) => (one as { value: RedisServer }).value);
    const cluster = new Cluster(nodes.slice(0, masters), nodes.slice(masters));
    try {
      assert.equal(nodes.length, starting.length, "every node has started");
      if (shape.hasBus) for (const node of nodes) await cluster.bus.join(node, await busPortOf(node));
      await cluster.#meet();
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(masters: readonly RedisServer[], replicas: readonly RedisServer[]) {
    this.masters = masters;
    this.replicas = replicas;
  }

  get nodes(): readonly RedisServer[] {
    return [...this.masters, ...this.replicas];
  }

  /** The `redis` options of a client for it. */
  get redis(): { port: undefined; clusterNodes: { host: string; port: number }[] } {
    return { port: undefined, clusterNodes: this.masters.map(({ port }) => ({ host: "127.0.0.1", port })) };
  }

  /** Fails the test if a connection to a node is left at its end, and then stops the nodes. */
  watch(t: TestContext): void {
    const stop = (): Promise<void> => this[Symbol.asyncDispose]();
    beginLeakCheck(t).onFailure = stop;
    for (const node of this.nodes) leakCheck(t, node);
    t.after(stop);
  }

  /** The index in `masters` of the node that first had this key's slot. */
  shardOf(key: string): number {
    return Math.floor((slotOf(key) * this.masters.length) / SLOTS);
  }

  /** A key of this shard; another one for each `name`. */
  keyOn(shard: number, name = "key"): string {
    for (let i = 0; ; i++) {
      const key = `${name}:${i}`;
      if (this.shardOf(key) === shard) return key;
    }
  }

  /** The port of the node that serves the shard's slots now. */
  async ownerOf(shard: number, asked: RedisServer): Promise<number> {
    const rows = (await asked.admin.call("CLUSTER", "SLOTS")) as [number, number, [string, number]][];
    const slot = Math.floor((shard * SLOTS) / this.masters.length) + 1;
    return rows.find(([first, last]) => first <= slot && slot <= last)?.[2][1] ?? 0;
  }

  /** The value of every key, from the node that has it now; for `CountedLoad.problems`. */
  get admin(): { mget(keys: readonly string[]): Promise<(string | null)[]> } {
    return {
      mget: async (keys) => {
        const owners = await Promise.all(this.masters.map((_, shard) => this.#serverOf(shard)));
        return await Promise.all(keys.map((key) => owners[this.shardOf(key)]!.admin.get(key)));
      },
    };
  }

  async #serverOf(shard: number): Promise<RedisServer> {
    const running = this.nodes.filter(({ isRunning }) => isRunning);
    const port = await this.ownerOf(shard, running[0]!);
    return running.find((node) => node.port === port)!;
  }

  /** The number of client connections to all nodes together. */
  async connections(): Promise<number> {
    const lists = await Promise.all(this.nodes.filter(({ isRunning }) => isRunning).map((node) => node.clients()));
    return lists.flat().length;
  }

  /** Makes the nodes announce names that cannot be resolved, and gives the `natMap` that translates them. */
  async hideBehindNames(): Promise<Record<string, { host: string; port: number }>> {
    for (const node of this.nodes) {
      await node.admin.config("SET", "cluster-announce-hostname", nameOf(node));
      await node.admin.config("SET", "cluster-preferred-endpoint-type", "hostname");
    }
    const known = async (): Promise<boolean> => {
      const told = await Promise.all(this.nodes.map(({ admin }) => admin.call("CLUSTER", "SLOTS")));
      return told.every((slots) => this.masters.every((master) => JSON.stringify(slots).includes(nameOf(master))));
    };
    await eventually(known, 30_000, "every node knows all names");
    return Object.fromEntries(
      this.nodes.map((node) => [`${nameOf(node)}:${node.port}`, { host: "127.0.0.1", port: node.port }]),
    );
  }

  /** Lets the other shards serve while one of them is down. */
  async allowPartial(): Promise<void> {
    await Promise.all(this.nodes.map(({ admin }) => admin.config("SET", "cluster-require-full-coverage", "no")));
  }

  /** Whether clients may ask for the slot map. */
  async allowMap(isAllowed: boolean): Promise<void> {
    const rule = `${isAllowed ? "+" : "-"}cluster|slots`;
    await Promise.all(this.nodes.map(({ admin }) => admin.acl("SETUSER", "default", rule)));
  }

  /** Moves the key's slot with all its keys. */
  async moveSlot(key: string, from: RedisServer, to: RedisServer): Promise<void> {
    await this.beginMove(key, from, to);
    const keys = await from.admin.cluster("GETKEYSINSLOT", slotOf(key), 1_000);
    if (keys.length > 0) await from.admin.call("MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", ...keys);
    // The nodes keep their connection for a while, which would count as one that is left.
    for (const { id, cmd } of await to.clients()) if (cmd === "restore-asking") await to.admin.client("KILL", "ID", id);
    const id = await to.admin.cluster("MYID");
    for (const node of [to, from, ...this.masters])
      await node.admin.cluster("SETSLOT", slotOf(key), "NODE", String(id));
  }

  /** Starts to move the slot: `from` answers ASK for a key that it no longer has. */
  async beginMove(key: string, from: RedisServer, to: RedisServer): Promise<void> {
    await to.admin.cluster("SETSLOT", slotOf(key), "IMPORTING", String(await from.admin.cluster("MYID")));
    await from.admin.cluster("SETSLOT", slotOf(key), "MIGRATING", String(await to.admin.cluster("MYID")));
  }

  /** Promotes the replica while its master is alive. */
  async failOver(replica: RedisServer): Promise<void> {
    let askAt = 0;
    const isMaster = async (): Promise<boolean> => {
      if (/role:master/.test(await replica.admin.info("replication"))) return true;
      if (performance.now() < askAt) return false;
      askAt = performance.now() + FAIL_OVER_AGAIN_MS;
      await replica.admin.cluster("FAILOVER");
      return false;
    };
    await eventually(isMaster, 30_000, "the replica is the master");
  }

  /** Starts the node and waits until it is a replica with a master: its handshake looks like a client's connection. */
  async rejoin(node: RedisServer): Promise<void> {
    await node.start();
    await untilInSync(node);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()));
  }

  async #meet(): Promise<void> {
    const share = SLOTS / this.masters.length;
    for (const [i, { admin }] of this.masters.entries()) {
      await admin.cluster("SET-CONFIG-EPOCH" as never, (i + 1) as never);
      const [from, to] = [Math.ceil(i * share), Math.ceil((i + 1) * share) - 1];
      await admin.cluster("ADDSLOTSRANGE", from, to);
    }
    for (const [i, { admin }] of this.replicas.entries()) {
      const master = String(await this.masters[i]!.admin.cluster("MYID"));
      await this.#untilMet(() => admin.cluster("REPLICATE", master).then(() => true), "the replica knows its master");
    }
    await this.#untilMet(() => this.#isWhole(), "every node says that the Cluster is whole");
  }

  /** Repeats the greeting, because on a busy machine it gets lost. */
  async #untilMet(check: () => Promise<boolean>, awaited: string): Promise<void> {
    const [first, ...others] = this.nodes;
    const busPort = await busPortOf(first!);
    let greetAt = 0;
    const greetAndCheck = async (): Promise<boolean> => {
      if (performance.now() >= greetAt) {
        for (const { admin } of others) await admin.call("CLUSTER", "MEET", "127.0.0.1", first!.port, busPort);
        greetAt = performance.now() + GREET_AGAIN_MS;
      }
      return await check();
    };
    await eventually(greetAndCheck, 60_000, awaited);
  }

  async #isWhole(): Promise<boolean> {
    const infos = await Promise.all(this.nodes.map((node) => node.admin.cluster("INFO")));
    const count = new RegExp(`cluster_known_nodes:${this.nodes.length}\\b`);
    if (!infos.every((info) => /cluster_state:ok/.test(String(info)) && count.test(String(info)))) return false;
    const links = await Promise.all(this.replicas.map(({ admin }) => admin.info("replication")));
    const seen = (await this.masters[0]!.admin.cluster("SLOTS")) as unknown[][];
    const areKnown =
      seen.length === this.masters.length && seen.every((row) => row.length === 3 + (this.replicas.length > 0 ? 1 : 0));
    return areKnown && links.every((link) => /master_link_status:up/.test(link));
  }
}

/** A name that cannot be resolved. */
function nameOf({ port }: RedisServer): string {
  return `node-${port}.invalid`;
}

export function slotOf(key: string): number {
  return new Command("get", [key]).getSlot();
}

async function busPortOf({ admin, port }: RedisServer): Promise<number> {
  const myself = String(await admin.cluster("NODES"))
    .split("\n")
    .find((line) => line.includes("myself"));
  return Number(/@(\d+)/.exec(myself ?? "")?.[1] ?? port + 10_000);
}

/** Its bus uses a free port, not the port plus 10 000. */
function startNode(
  { password, certificates, without = [], flags: further = {} }: ClusterShape,
  replicas: number,
): Promise<RedisServer> {
  return launch({
    observer: { ...(password && { password }), ...(certificates && { tls: { ca: certificates.ca } }) },
    async args(port, folder) {
      const flags = {
        ...(certificates ? tlsFlags(certificates, port) : { port }),
        ...(password && { requirepass: password, masterauth: password }),
        bind: "127.0.0.1",
        dir: folder,
        save: "",
        appendonly: "no",
        "cluster-enabled": "yes",
        "cluster-port": await freePort(),
        "cluster-node-timeout": replicas > 0 ? NODE_TIMEOUT_MS.withReplicas : NODE_TIMEOUT_MS.alone,
        "cluster-allow-replica-migration": "no",
        "repl-diskless-sync-delay": 0,
        ...further,
      };
      const renamed = without.flatMap((command) => ["--rename-command", command, ""]);
      return [...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, String(value)]), ...renamed];
    },
  });
}

function tlsFlags({ folder }: Certificates, port: number): Record<string, unknown> {
  return {
    port: 0,
    "tls-port": port,
    "tls-cert-file": join(folder, "server.crt"),
    "tls-key-file": join(folder, "server.key"),
    "tls-ca-cert-file": join(folder, "ca.crt"),
    "tls-auth-clients": "no",
    "tls-cluster": "yes",
    "tls-replication": "yes",
  };
}
