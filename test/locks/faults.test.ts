import assert from "node:assert/strict";
import { after, test } from "node:test";
import { MessageChannel } from "node:worker_threads";
import { type AnyClient, clientOf } from "../../src/clients/open-client.js";
import { noopLogger } from "../../src/core/log.js";
import { Keeper } from "../../src/keeper/keeper.js";
import { LockQueues } from "../../src/keeper/lock-queues.js";
import { KeeperLedger } from "../../src/locks/keeper-ledger.js";
import type { KeeperEnd } from "../../src/locks/keeper-protocol.js";
import { Locker } from "../../src/locks/locker.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { configFor } from "../support/fast-config.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { own } from "../support/own-client.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const TTL_MS = 500;
const server = await startRedis();
after(() => server.stop());

const tasks = fixture("lock-tasks");

test("an acquire whose reply is lost is sent again with the same token, and has the same fence", LIMIT, async (t) => {
  await using way = await startProxy(server.port);
  const manager = manage<typeof Tasks>(t, server, { tasks, redis: { port: way.port }, threads: { count: 1 } });
  await manager.withLock("before", {}, async () => {}); // the keeper is connected
  way.cutAfterReplyBytes(0);
  const lock = await manager.acquireLock("in doubt", { ttlMs: 60_000, waitMs: 50_000 });
  const [token, fence] = String(await server.admin.get("in doubt")).split(" ");
  assert.equal(Number(fence), lock.fence);
  assert.equal(Number(await server.admin.get("{in doubt}:fence")), lock.fence, "it was acquired once");
  await lock.release();
  assert.equal(await server.admin.exists("in doubt"), 0, token);
});

test("a caller that gives up an acquire in doubt leaves no lock", LIMIT, async (t) => {
  await using way = await startProxy(server.port);
  const manager = manage<typeof Tasks>(t, server, { tasks, redis: { port: way.port }, threads: { count: 1 } });
  await manager.withLock("before", {}, async () => {});
  const calledOff = new AbortController();
  way.blackhole(true);
  const acquiring = manager.acquireLock("given up", { ttlMs: 60_000, waitMs: 50_000, signal: calledOff.signal });
  setTimeout(() => calledOff.abort(new Error("enough")), 100);
  await assert.rejects(acquiring, /enough/);
  way.blackhole(false); // the acquire comes through, and the release behind it
  await manager.use((redis) => redis.ping());
  await eventually(async () => (await server.admin.exists("given up")) === 0, 5_000, "it is released");
});

test("a holder that has lost its lock neither extends nor releases the lock of its successor", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const lock = await manager.acquireLock("successor", { ttlMs: TTL_MS });
  await server.admin.set("successor", "another 1 0 holder", "PX", 60_000);
  await eventually(() => !lock.isHeld, 10_000, "the loss is found");
  await assert.rejects(lock.release(), code("LOCK_LOST"));
  assert.equal(await server.admin.get("successor"), "another 1 0 holder");
  // Also while the loss is not found yet.
  const other = await manager.acquireLock("successor 2", { ttlMs: 60_000 });
  await server.admin.set("successor 2", "another 1 0 holder", "PX", 60_000);
  await other.release();
  assert.equal(await server.admin.get("successor 2"), "another 1 0 holder");
  assert.ok((await server.admin.pttl("successor")) > 50_000);
});

test("an outage shorter than the ttl is no loss, whatever the commands of the keeper reject with", LIMIT, async (t) => {
  await using way = await startProxy(server.port);
  const manager = manage<typeof Tasks>(t, server, { tasks, redis: { port: way.port }, threads: { count: 1 } });
  const lock = await manager.acquireLock("outage", { ttlMs: 10_000 });
  way.down();
  way.reset();
  await new Promise((resolve) => setTimeout(resolve, 4_000)); // a third of the ttl is over
  await way.up();
  await eventually(async () => (await server.admin.pttl("outage")) > 7_000, 10_000, "it is extended again");
  await lock.release(); // rejects if it was lost
});

test("when the clock on the wall jumps, as after a suspended machine, all locks count as lost", LIMIT, async (t) => {
  const redis = await own(t, server, {});
  const client = clientOf(redis) as AnyClient;
  let jumpMs = 0;
  const ledger = new KeeperLedger();
  const queues = new LockQueues(client.redis, () => true, ledger, noopLogger);
  const keeper = new Keeper(client, queues, ledger, noopLogger, () => Date.now() + jumpMs);
  const attach = async (): Promise<KeeperEnd> => {
    const { port1, port2 } = new MessageChannel();
    keeper.attach(port1);
    return { port: port2, ledger: ledger.buffer };
  };
  const locker = new Locker({
    thread: { attach },
    getRedis: async () => redis,
    redis: configFor(server).redis,
    holder: "a test",
    logger: noopLogger,
  });
  const lock = await locker.acquire("suspended", { ttlMs: 60_000 });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.equal(lock.isHeld, true);
  jumpMs = 25_000;
  await new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
  assert.throws(
    () => lock.assertHeld(),
    (error) => code("LOCK_LOST")(error) && (error as { reason?: string }).reason === "clock",
  );
  assert.equal(ledger.losses.clock, 1);
  await locker.close(1_000);
  await keeper.close(1_000);
});
