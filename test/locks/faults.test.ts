import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type AnyClient, clientOf } from "../../src/clients/open-client.js";
import { noopLogger } from "../../src/core/log.js";
import { Keeper } from "../../src/keeper/keeper.js";
import { LockQueues } from "../../src/keeper/lock-queues.js";
import { KeeperHost } from "../../src/locks/keeper-host.js";
import { KeeperLedger } from "../../src/locks/keeper-ledger.js";
import type { ToKeeperOfOwners } from "../../src/locks/keeper-protocol.js";
import { Locker } from "../../src/locks/locker.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { configFor } from "../support/fast-config.js";
import { FENCES } from "../../src/locks/lock-scripts.js";
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
  const counter = Number(await server.admin.get("{in doubt}:fence"));
  assert.equal(counter, lock.fence + FENCES - 1, "it was acquired once");
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

test(
  "an acquire that is under way when its thread closes leaves no lock, and costs no other command its reply",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
    await manager.withLock("before", {}, async () => {});
    const acquiring = manager.acquireLock("late", { ttlMs: 60_000 }).catch((error: unknown) => error);
    const using = manager.use((redis) => redis.eval("for i = 1, 3e6 do end return 'whole'", 0));
    await manager.shutdown();
    assert.equal(await using, "whole");
    const late = await acquiring;
    assert.ok(code("SHUTTING_DOWN")(late) || "fence" in (late as object), String(late));
    assert.equal(await server.admin.exists("late"), 0);
  },
);

test("a holder that hangs without computing loses its lock after maxHoldMs, and others get it", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const hung = await manager.acquireLock("hangs", { ttlMs: 60_000, maxHoldMs: 500 });
  await manager.withLock("hangs", { waitMs: 30_000 }, async () => {});
  await assert.rejects(hung.release(), (error) => (error as { reason?: string }).reason === "maxHold");
});

test("a key that became another type is lost, and the locks beside it are extended", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const [wrong, beside] = await Promise.all(
    ["wrong type", "beside"].map((key) => manager.acquireLock(key, { ttlMs: 1_000 })),
  );
  await server.admin.del("wrong type");
  await server.admin.rpush("wrong type", "an outsider's");
  await eventually(() => !wrong!.isHeld, 10_000, "the loss is found");
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await beside!.release(); // rejects if it was lost
  await assert.rejects(wrong!.release(), (error) => (error as { reason?: string }).reason === "gone");
});

test(
  "a listener that releases a lost lock, and a task that asks for it again at once, harm no other lock",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
    assert.deepEqual(await manager.run("loseAndRetry", "again"), ["REDTHREAD_LOCK_LOST", "acquired"]);
    const lock = await manager.acquireLock("listened", { ttlMs: 500 });
    lock.signal.addEventListener("abort", () => void lock.release().catch(() => {}));
    await server.admin.del("listened");
    await eventually(() => !lock.isHeld, 10_000, "the loss is found");
    await assert.rejects(lock.release(), code("LOCK_LOST"));
    const two = await Promise.all(["one", "other"].map((key) => manager.acquireLock(key, { ttlMs: 60_000 })));
    await two[0]!.release();
    assert.equal(two[1]!.isHeld, true, "they have not the same record");
    await two[1]!.release();
  },
);

test("what another library has written at a lock's key is told as such, and waited for", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  for (const value of ["4f0c9a7d2b", "", "tok 1 2", "tok 1 99999999999999999999 n"]) {
    await server.admin.set("foreign", value);
    const told = await manager.acquireLock("foreign", { waitMs: 20 }).catch((error: unknown) => error);
    assert.ok(code("LOCK_NOT_ACQUIRED")(told), String(told));
    const { holder } = told as { holder: { name: string; ttlLeftMs: number } };
    assert.deepEqual(holder, { name: "a client that is not redthread's", ttlLeftMs: Infinity });
  }
  await server.admin.pexpire("foreign", 300);
  await manager.withLock("foreign", { waitMs: 30_000 }, async () => {});
});

test("while Redis is away a signal ends the wait for a lock, and waitMs 0 takes one deadline", LIMIT, async (t) => {
  const away = await startRedis();
  const manager = manage<typeof Tasks>(t, away, { tasks, threads: { count: 1 }, redis: { commandTimeoutMs: 30_000 } });
  t.after(() => away.stop());
  await manager.withLock("before", {}, async () => {});
  await away.kill();
  await eventually(() => manager.stats().breaker.state !== "closed");
  const startedAt = performance.now();
  await assert.rejects(manager.acquireLock("away", { waitMs: 0, signal: AbortSignal.timeout(100) }), /aborted/);
  assert.ok(performance.now() - startedAt < 20_000);
  await away.start();
});

test("when the clock on the wall jumps, as after a suspended machine, all locks count as lost", LIMIT, async (t) => {
  const redis = await own(t, server, {});
  const client = clientOf(redis) as AnyClient;
  let jumpMs = 0;
  const thread = new KeeperHost({ config: configFor(server), logger: noopLogger }, (buffer, events) => {
    const ledger = new KeeperLedger(buffer);
    const queues = new LockQueues(client.redis, async () => true, noopLogger);
    const keeper = new Keeper(client, queues, ledger, noopLogger, () => Date.now() + jumpMs);
    setImmediate(() => events.connected());
    return { post: (message) => keeper.receive(message as ToKeeperOfOwners), close: (ms) => keeper.close(ms) };
  });
  const locker = new Locker({
    thread,
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
  assert.equal(thread.ledger?.losses.clock, 1);
  await locker.close(1_000);
  await thread.close(1_000);
});
