import assert from "node:assert/strict";
import { test } from "node:test";
import { MessageChannel } from "node:worker_threads";
import { Redis } from "ioredis";
import { type AnyClient, clientOf } from "../../src/clients/open-client.js";
import type { Handle } from "../../src/commands/handle.js";
import { noopLogger } from "../../src/core/log.js";
import { connect, disconnect } from "../../src/index.js";
import { Keeper } from "../../src/keeper/keeper.js";
import { LockQueues } from "../../src/keeper/lock-queues.js";
import { KeeperLedger } from "../../src/locks/keeper-ledger.js";
import { ConnectionFilters } from "../../src/locks/lock-nodes.js";
import { acquire } from "../../src/locks/lock-scripts.js";
import { type Lease, LockTable, OWNED } from "../../src/locks/lock-table.js";
import { Cluster } from "../support/cluster.js";
import { lockingOn, scriptsRun } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import { code } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };

test(
  "in a Cluster a thread that ends with an acquire on the way leaves no lock: the command never arrives",
  LIMIT,
  async (t) => {
    const cluster = await Cluster.start();
    const proxies = await Promise.all(cluster.masters.map(({ port }) => startProxy(port)));
    const places = proxies.map(({ port }) => ({ host: "127.0.0.1", port }));
    const natMap = Object.fromEntries(cluster.masters.map(({ port }, i) => [`127.0.0.1:${port}`, places[i]!]));
    // Nothing may hold the acquire back in its thread.
    const manager = lockingOn(t, cluster, { clusterNodes: places, natMap, idleCheckMs: 100_000 });
    cluster.watch(t);
    t.after(() => proxies.forEach((proxy) => proxy.close()));
    await manager.run("tryOnce", { key: "starts the keeper" });
    // The keeper's connection to this node must be new, because those that are open get stuck.
    const lists = await Promise.all(cluster.masters.map((node) => node.clients()));
    const shard = lists.findIndex((list) => !list.some(({ name }) => name?.endsWith(":keeper")));
    const [node, proxy] = [cluster.masters[shard]!, proxies[shard]!];
    const key = cluster.keyOn(shard);
    for (const name of ["before", "later"]) await manager.run("tryOnce", { key: `{${key}}:${name}` });
    const before = await scriptsRun(node);
    proxy.strand();
    await assert.rejects(manager.run("exitWhileSending", key), code("THREAD_DIED"));
    await eventually(async () => (await scriptsRun(node)) >= before + 2, 30_000, "it is released twice");
    proxy.blackhole(false);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    assert.equal(await node.admin.exists(key), 0, "it does not come later");
  },
);

/** A client whose connection has this number on this node. */
async function connectionNumbered(number: number, { port }: RedisServer): Promise<Redis> {
  for (;;) {
    const one = new Redis(port, { retryStrategy: () => null });
    const id = await one.client("ID");
    if (id === number) return one;
    await one.quit();
    assert.ok(id < number, `${id} comes after ${number}`);
  }
}

/** Tells a keeper of a thread that was acquiring this lock, and has ended. */
function leave(keeper: Keeper, lease: Lease, connection: string): void {
  const table = LockTable.make(1, 512);
  table.records[0]!.begin(lease, connection, 0);
  const { port1, port2 } = new MessageChannel();
  keeper.receive({ type: "attach", owner: 1, port: port1, tables: [table.buffer] });
  port2.close();
}

test("a connection's number on one node ends no client of the node that has the slot now", LIMIT, async (t) => {
  const cluster = await Cluster.start();
  const open = (): ReturnType<typeof connect> => connect({ env: {}, redis: { ...cluster.redis } });
  const [redis, owner] = [await open(), await open()];
  let bystander: Redis | undefined;
  t.after(() => {
    bystander?.disconnect();
    return Promise.all([redis, owner].map((one) => disconnect(one)));
  });
  cluster.watch(t);
  const [from, to] = cluster.masters as [RedisServer, RedisServer];
  const key = cluster.keyOn(0);
  // The first node's numbers have to be ahead of the other's.
  const ahead = (await to.admin.client("ID")) + 200;
  await (await connectionNumbered(ahead, from)).quit();
  for (const { name, id } of await from.clients()) if (name) await from.admin.client("KILL", "ID", id);
  const filters = new ConnectionFilters();
  const isKnown = async (): Promise<boolean> => (await owner.get(key)) === null && filters.of(owner, key) !== "";
  await eventually(isKnown, 10_000, "the owner's connection is known");
  const connection = filters.of(owner, key);
  bystander = await connectionNumbered(Number(connection.split(" ")[1]), to);

  const client = clientOf(redis) as AnyClient;
  const ledger = new KeeperLedger();
  const queues = new LockQueues(redis as unknown as Handle, async () => false, noopLogger);
  const keeper = new Keeper(client, queues, ledger, noopLogger);
  const lease = { kind: OWNED as typeof OWNED, key, token: "token", ttlMs: 60_000, maxHoldMs: Infinity, replicas: 0 };
  await acquire(owner, key, lease.token, lease.ttlMs, "owner");
  await cluster.moveSlot(key, from, to);
  assert.ok(await redis.get(key)); // the keeper's client follows the slot
  leave(keeper, lease, connection);
  await eventually(async () => (await to.admin.exists(key)) === 0, 10_000, "the lock is released");
  assert.equal(await bystander.ping(), "PONG");
  await keeper.close(1_000);
});
