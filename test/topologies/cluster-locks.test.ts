import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { MessageChannel } from "node:worker_threads";
import { Redis } from "ioredis";
import { type AnyClient, clientOf } from "../../src/clients/open-client.js";
import { noopLogger } from "../../src/core/log.js";
import { connect, ConnectionManager, disconnect, type ManagerOptions } from "../../src/index.js";
import { Keeper } from "../../src/keeper/keeper.js";
import { LockQueues } from "../../src/keeper/lock-queues.js";
import { KeeperLedger } from "../../src/locks/keeper-ledger.js";
import type { FromOwner } from "../../src/locks/keeper-protocol.js";
import { ConnectionFilters } from "../../src/locks/lock-nodes.js";
import { acquire } from "../../src/locks/lock-scripts.js";
import { LockTable, OWNED } from "../../src/locks/lock-table.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { Cluster, type ClusterShape } from "../support/cluster.js";
import { eventually } from "../support/gate.js";
import { beginLeakCheck } from "../support/leak-check.js";
import { code, fixture } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";
import { silent } from "../support/silent.js";

const LIMIT = { timeout: 120_000 };
const TTL_MS = 60_000;

/** A manager on this Cluster with a keeper of its own, as in another process. */
function managerOn(
  t: TestContext,
  cluster: Cluster,
  redis: ManagerOptions["redis"] = {},
): ConnectionManager<typeof Tasks> {
  beginLeakCheck(t);
  const manager = new ConnectionManager<typeof Tasks>({
    env: {},
    logger: silent,
    tasks: fixture("lock-tasks"),
    redis: { ...cluster.redis, ...redis },
    threads: { count: 1, startTimeoutMs: 30_000 },
  });
  t.after(() => eventually(() => manager.shutdown({ drainMs: 1_000 }), 30_000, "the manager is shut down"));
  return manager;
}

/** A holder's manager and a waiter's on a new Cluster. */
async function two(
  t: TestContext,
  shape: ClusterShape = {},
  redis: ManagerOptions["redis"] = {},
): Promise<[cluster: Cluster, holder: ConnectionManager<typeof Tasks>, waiter: ConnectionManager<typeof Tasks>]> {
  const cluster = await Cluster.start(shape);
  const managers = [managerOn(t, cluster, redis), managerOn(t, cluster, redis)] as const;
  cluster.watch(t);
  return [cluster, ...managers];
}

async function scripts({ admin }: RedisServer): Promise<number> {
  const stats = await admin.info("commandstats");
  return [...stats.matchAll(/cmdstat_eval(?:sha)?:calls=(\d+)/g)].reduce((sum, [, calls]) => sum + Number(calls), 0);
}

const listeners = async ({ admin }: RedisServer, channel: string): Promise<number> =>
  Number(((await admin.call("PUBSUB", "SHARDNUMSUB", channel)) as [string, number])[1]);

/** Waits until a waiter listens there, and has asked the node for nothing for a second: without a channel it looks more often. */
async function untilItListens(node: RedisServer, channel: string): Promise<number> {
  let before = -1;
  const isSilent = async (): Promise<boolean> => {
    if ((await listeners(node, channel)) !== 1) return false;
    before = await scripts(node);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    return (await scripts(node)) === before;
  };
  await eventually(isSilent, 30_000, "it listens, and does not look");
  return before;
}

for (const limit of [1, 2]) {
  test(
    `in a Cluster a waiter of another process gets its turn by the release, and never looks (limit ${limit})`,
    LIMIT,
    async (t) => {
      const [cluster, holder, waiter] = await two(t);
      const key = cluster.keyOn(1);
      const node = cluster.masters[1]!;
      const channel = `{${key}}:released`;
      const options = { limit, ttlMs: TTL_MS, waitMs: 50_000 };
      const others = await Promise.all(Array.from({ length: limit - 1 }, () => holder.acquireLock(key, options)));
      let lock = await holder.acquireLock(key, options);
      let tookMs = 0;
      for (let round = 0; round < 4; round++) {
        const waiting = waiter.acquireLock(key, options);
        const before = await untilItListens(node, channel);
        const startedAt = performance.now();
        await lock.release();
        const next = await waiting;
        tookMs += performance.now() - startedAt;
        assert.equal(await scripts(node), before + 2, "the release, and one acquire");
        await next.release();
        lock = await holder.acquireLock(key, options);
      }
      assert.ok(tookMs < 8_000, `by looks, one after 5 s, it would have taken longer than ${tookMs} ms`);
      await Promise.all([lock, ...others].map((one) => one.release()));
      await eventually(async () => (await listeners(node, channel)) === 0, 5_000, "nobody listens any more");
    },
  );
}

test("a waiter in a Cluster listens on after its slot has moved, and after a failover", LIMIT, async (t) => {
  const [cluster, holder, waiter] = await two(t, { replicas: 1 });
  const key = cluster.keyOn(0);
  const channel = `{${key}}:released`;
  const [from, to] = cluster.masters as [RedisServer, RedisServer];
  const lock = await holder.acquireLock(key, { ttlMs: TTL_MS });
  const waiting = waiter.acquireLock(key, { ttlMs: TTL_MS, waitMs: 100_000 });
  await untilItListens(from, channel);
  await cluster.moveSlot(key, from, to);
  const moved = await untilItListens(to, channel);
  await lock.release();
  const next = await waiting;
  assert.equal(await scripts(to), moved + 2, "the release, and one acquire");

  const replica = cluster.replicas[1]!;
  const last = holder.acquireLock(key, { ttlMs: TTL_MS, waitMs: 100_000 });
  await untilItListens(to, channel);
  await cluster.failOver(replica);
  const failedOver = await untilItListens(replica, channel);
  await next.release();
  await (await last).release();
  assert.equal(await scripts(replica), failedOver + 3, "the release, one acquire and its release");
});

/** What the nodes lack, or what the user may not do. */
const MUTE: readonly [why: string, shape: ClusterShape, rights: readonly string[]][] = [
  ["on a server without sharded channels", { without: ["SPUBLISH", "SSUBSCRIBE"] }, []],
  ["without the right to sharded channels", {}, ["-spublish", "-ssubscribe"]],
  ["without the right to the channel", {}, ["resetchannels"]],
];

for (const [why, shape, rights] of MUTE) {
  test(`in a Cluster ${why} locks are released, and waiters look from time to time`, LIMIT, async (t) => {
    const [cluster, holder, waiter] = await two(t, shape, { username: "mute", password: "secret" });
    for (const { admin } of cluster.nodes)
      await admin.call("ACL", "SETUSER", "mute", "on", ">secret", "~*", "&*", "+@all", ...rights);
    const key = cluster.keyOn(2);
    const node = cluster.masters[2]!;
    const lock = await holder.acquireLock(key, { ttlMs: TTL_MS });
    const waiting = waiter.acquireLock(key, { waitMs: 50_000 });
    await eventually(async () => (await scripts(node)) > 10, 30_000, "it looks");
    await lock.release();
    await (await waiting).release();
    assert.equal(await node.admin.exists(key), 0);
  });
}

test("with RESP2 nothing listens in a Cluster: the keeper's connections go on extending locks", LIMIT, async (t) => {
  const [cluster, holder, waiter] = await two(t, {}, { ioredis: { protocol: 2 } });
  const [held, wanted] = [cluster.keyOn(0, "held"), cluster.keyOn(0, "wanted")];
  const lock = await holder.acquireLock(wanted, { ttlMs: TTL_MS });
  const kept = await waiter.acquireLock(held, { ttlMs: 500 });
  const waiting = waiter.acquireLock(wanted, { waitMs: 50_000 });
  await new Promise((resolve) => setTimeout(resolve, 1_500)); // three times its ttl
  kept.assertHeld();
  await lock.release();
  await (await waiting).release();
  await kept.release();
});

test(
  "in a Cluster a thread that ends with an acquire on the way leaves no lock: the command never arrives",
  LIMIT,
  async (t) => {
    const cluster = await Cluster.start();
    const proxies = await Promise.all(cluster.masters.map(({ port }) => startProxy(port)));
    const places = proxies.map(({ port }) => ({ host: "127.0.0.1", port }));
    const natMap = Object.fromEntries(cluster.masters.map(({ port }, i) => [`127.0.0.1:${port}`, places[i]!]));
    // Nothing may hold the acquire back in its thread.
    const manager = managerOn(t, cluster, { clusterNodes: places, natMap, idleCheckMs: 100_000 });
    cluster.watch(t);
    t.after(() => proxies.forEach((proxy) => proxy.close()));
    await manager.run("tryOnce", { key: "starts the keeper" });
    // The keeper's connection to this node must be new, because those that are open get stuck.
    const lists = await Promise.all(cluster.masters.map((node) => node.clients()));
    const shard = lists.findIndex((list) => !list.some(({ name }) => name?.endsWith(":keeper")));
    const [{ admin }, proxy] = [cluster.masters[shard]!, proxies[shard]!];
    const key = cluster.keyOn(shard);
    for (const name of ["before", "later"]) await manager.run("tryOnce", { key: `{${key}}:${name}` });
    proxy.strand();
    await assert.rejects(manager.run("exitWhileSending", key), code("THREAD_DIED"));
    const released = async (): Promise<number> =>
      Number(/cmdstat_eval:calls=(\d+)/.exec(await admin.info("commandstats"))?.[1]);
    const before = await released();
    await eventually(async () => (await released()) >= before + 1, 30_000, "it is released again");
    await new Promise((resolve) => setTimeout(resolve, 500));
    proxy.blackhole(false);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    assert.equal(await admin.exists(key), 0, "it does not come later");
  },
);

test("a connection's number on one node ends no client of the node that has the slot now", LIMIT, async (t) => {
  const cluster = await Cluster.start();
  const bystanders: Redis[] = [];
  t.after(() => bystanders.forEach((one) => one.disconnect()));
  const open = (): ReturnType<typeof connect> => connect({ env: {}, redis: { ...cluster.redis } });
  const [redis, owner] = [await open(), await open()];
  t.after(() => Promise.all([redis, owner].map((one) => disconnect(one))));
  cluster.watch(t);
  const [from, to] = cluster.masters as [RedisServer, RedisServer];
  const key = cluster.keyOn(0);
  // The numbers of the first node get ahead of the other node's.
  const opened = async (node: RedisServer): Promise<[Redis, number]> => {
    const one = new Redis(node.port, { retryStrategy: () => null });
    bystanders.push(one);
    return [one, await one.client("ID")];
  };
  const [one, aim] = await opened(to);
  await one.quit();
  for (let number = 0; number < aim + 20;) {
    const [other, id] = await opened(from);
    await other.quit();
    number = id;
  }
  const filters = new ConnectionFilters();
  const isKnown = async (): Promise<boolean> => (await owner.get(key)) === null && filters.of(owner, key) !== "";
  await eventually(isKnown, 10_000, "the owner's connection is known");
  const connection = filters.of(owner, key);
  const number = Number(connection.split(" ")[1]);
  let [bystander, id] = await opened(to);
  while (id < number) {
    await bystander.quit();
    [bystander, id] = await opened(to);
  }
  assert.equal(id, number);

  const token = "token";
  await acquire(owner, key, token, TTL_MS, "owner");
  const table = LockTable.make(1, 512);
  table.records[0]!.begin({ kind: OWNED, key, token, ttlMs: TTL_MS, maxHoldMs: Infinity, connection }, 0);
  await cluster.moveSlot(key, from, to);
  assert.notEqual(await redis.get(key), null); // the keeper's client follows the slot
  const client = clientOf(redis) as AnyClient;
  const ledger = new KeeperLedger();
  const keeper = new Keeper(
    client,
    new LockQueues(redis as never, async () => false, ledger, noopLogger),
    ledger,
    noopLogger,
  );
  const { port1, port2 } = new MessageChannel();
  keeper.attach(port1);
  port2.postMessage({ type: "table", buffer: table.buffer } satisfies FromOwner);
  port2.close();
  await eventually(async () => (await to.admin.exists(key)) === 0, 10_000, "the lock is released");
  assert.equal(await bystander.ping(), "PONG");
  await keeper.close(1_000);
});
