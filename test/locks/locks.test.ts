import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { overKey, spin } from "../fixtures/lock-tasks.js";
import { eventually, gate } from "../support/gate.js";
import { blockKeeper, newWorkers, sharedBuffers } from "../support/keeper.js";
import { code, fixture, manage } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const TTL_MS = 500;
const server = await startRedis();
after(() => server.stop());

const tasks = fixture("lock-tasks");

const isThere = (key: string) => (): Promise<boolean> => server.admin.exists(key).then((count) => count === 1);
const isGone = (key: string) => (): Promise<boolean> => server.admin.exists(key).then((count) => count === 0);

/** Rivals in another thread, once they have tried for the first time. */
async function tried(manager: ConnectionManager<typeof Tasks>, key: string) {
  const first = gate();
  const rivals = manager.run("rivals", key, { onReport: () => first.open() });
  await Promise.race([first.promise, rivals]);
  return { rivals };
}

for (const what of ["its thread", "its thread and the main thread"]) {
  test(`0 of 50 rivals get a lock while its holder blocks ${what} for three times the ttl`, LIMIT, async (t) => {
    const key = `busy ${what}`;
    const manager = manage<typeof Tasks>(t, server, { tasks });
    await manager.ready();
    const computing = manager.run("compute", { key, ttlMs: TTL_MS, ms: 3 * TTL_MS }, { exclusive: true });
    await eventually(isThere(key), 30_000, "the lock is there");
    const { rivals } = await tried(manager, key);
    if (what !== "its thread") spin(3 * TTL_MS);
    assert.ok((await computing) > 1e15);
    const { tries, got } = await rivals;
    assert.equal(got, 0);
    assert.ok(tries > 0);
    await eventually(isGone(key), 5_000, "neither the holder nor a rival that came after it is left");
  });
}

test("the main thread keeps a lock while it computes", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await manager.ready();
  const { rivals } = await manager.withLock("main", { ttlMs: TTL_MS }, async (lock) => {
    const trying = await tried(manager, "main");
    spin(3 * TTL_MS);
    lock.assertHeld();
    await server.admin.set(overKey("main"), 1);
    return trying;
  });
  const { tries, got } = await rivals;
  assert.equal(got, 0);
  assert.ok(tries > 0);
});

test("a thread that waits in vain is told what holds the lock, and fences grow", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, appName: "shop" });
  const [fence] = await manager.run("keep", { keys: ["told"] });
  const told = await manager.run("tryOnce", { key: "told" }).catch((error: unknown) => error);
  const { key, holder, outcome } = told as {
    key: string;
    holder: { name: string; since: number; ttlLeftMs: number };
    outcome: string;
  };
  assert.ok(code("LOCK_NOT_ACQUIRED")(told), String(told));
  assert.equal(key, "told");
  assert.equal(outcome, "refused");
  assert.match(holder.name, new RegExp(`^shop:.+:${process.pid}:\\d+$`));
  assert.ok(Math.abs(holder.since - Date.now()) < 60_000);
  assert.ok(holder.ttlLeftMs > 5_000 && holder.ttlLeftMs <= 10_000, String(holder.ttlLeftMs));
  await Promise.all([1, 2].map(() => manager.run("releaseAll")));
  await eventually(isGone("told"), 5_000, "the lock is free");
  assert.ok((await manager.run("tryOnce", { key: "told" })) > fence!);
});

test(
  "a computing holder whose connections are cut off is told by the time, not earlier than its ttl less the drift",
  LIMIT,
  async (t) => {
    await using way = await startProxy(server.port);
    const manager = manage<typeof Tasks>(t, server, {
      tasks,
      redis: { port: way.port },
      shutdown: { drainMs: 1_000, closeMs: 1_000 },
    });
    const held = gate();
    const onReport = (): void => held.open();
    const losing = manager.run("computeUntilLost", { key: "cut off", ttlMs: TTL_MS }, { onReport });
    await held.promise;
    way.blackhole(true);
    const { reason, afterMs } = await losing;
    assert.equal(reason, "expired");
    assert.ok(afterMs >= TTL_MS - 9, String(afterMs)); // the drift is 1 % and 3 ms, and times are rounded down
    assert.ok(afterMs < 10_000, String(afterMs));
    way.blackhole(false);
  },
);

test(
  "a lock whose key is deleted is lost at the next extension, in a computing and in a waiting thread",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks });
    const keys = ["deleted 1", "deleted 2"];
    const computing = manager.run("computeUntilLost", { key: keys[0]!, ttlMs: TTL_MS }, { exclusive: true });
    const waiting = manager.run("waitForLoss", { key: keys[1]!, ttlMs: TTL_MS });
    await Promise.all(keys.map((key) => eventually(isThere(key), 30_000, "the lock is there")));
    await server.admin.del(...keys);
    assert.equal((await computing).reason, "gone");
    assert.equal(await waiting, "gone");
  },
);

test("a holder that hangs loses its lock after maxHoldMs, and others get it", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const hung = manager.run("computeUntilLost", { key: "hung", ttlMs: 10_000, maxHoldMs: 1_000 }, { exclusive: true });
  await eventually(isThere("hung"), 30_000, "the lock is there");
  const { reason, afterMs } = await hung;
  assert.equal(reason, "maxHold");
  assert.ok(afterMs >= 990, String(afterMs));
  await eventually(isGone("hung"), 5_000, "others can get it");
});

test("while the keeper is blocked holders are told by the time, if they compute and if they wait", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, shutdown: { closeMs: 500 } });
  const computing = manager.run("computeUntilLost", { key: "blocked 1", ttlMs: TTL_MS }, { exclusive: true });
  const waiting = manager.run("waitForLoss", { key: "blocked 2", ttlMs: TTL_MS });
  for (const key of ["blocked 1", "blocked 2"]) await eventually(isThere(key), 30_000, "the lock is there");
  await blockKeeper(t, 120_000); // for longer than the test lasts
  assert.equal((await computing).reason, "expired");
  assert.equal(await waiting, "expired");
});

test("when the keeper ends, another one extends the locks that are held", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  await manager.ready();
  const before = workers.length;
  await manager.run("keep", { keys: ["orphan"], ttlMs: 2_000 });
  const keeper = workers[before]!;
  await keeper.terminate();
  await eventually(() => workers.length > before + 1, 10_000, "another keeper is started");
  const until = performance.now() + 4_000;
  while (performance.now() < until) assert.ok(await isThere("orphan")());
  await manager.run("releaseAll"); // it would reject with the loss
});

test("a thread that ends with 20 locks leaves none", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const keys = Array.from({ length: 20 }, (_, i) => `dead ${i}`);
  await manager.run("keep", { keys, ttlMs: 60_000 });
  assert.equal(await server.admin.exists(...keys), 20);
  const exited = new Promise((resolve) => workers[0]!.once("exit", resolve));
  await assert.rejects(manager.run("exit"), code("THREAD_DIED"));
  await exited;
  await eventually(async () => (await server.admin.exists(...keys)) === 0, 5_000, "the locks are free");
});

test("a shutdown holds locks through the drain, and releases them before the connections close", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await manager.run("keep", { keys: ["kept by the shutdown"], ttlMs: 60_000 });
  await manager.acquireLock("the main thread's", { ttlMs: 60_000 });
  const working = manager.withLock("of a function", { ttlMs: 60_000 }, async (lock) => {
    await new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
  });
  const told = assert.rejects(working, (error) => (error as { reason?: string }).reason === "shutdown");
  const lasting = manager.run("compute", { key: "drained", ttlMs: TTL_MS, ms: 4 * TTL_MS });
  await eventually(isThere("drained"), 30_000, "the lock is there");
  await manager.shutdown({ drainMs: 30_000 });
  await lasting;
  await told;
  assert.equal(await server.admin.exists("drained", "kept by the shutdown", "the main thread's", "of a function"), 0);
});

test("without a lock there is no keeper: neither a thread nor a connection, nor memory of locks", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const buffers = sharedBuffers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  await manager.ready();
  await manager.run("rivals", "none");
  assert.equal(workers.length, 1);
  assert.deepEqual(
    (await server.clients()).filter(({ name }) => name.endsWith(":keeper")),
    [],
  );
  const ofLocks = (): number => buffers.filter((stack) => stack.includes("/src/locks/")).length;
  assert.ok(buffers.length > 0);
  assert.equal(ofLocks(), 0);
  await manager.run("tryOnce", { key: "the first" });
  assert.equal(ofLocks(), 1, "the keeper's numbers; the thread makes the memory of its locks");
});

test("wrong options are refused before anything is sent", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const wrong: Parameters<typeof manager.acquireLock>[] = [
    ["", {}],
    ["k".repeat(5_000), {}],
    ["k", { ttlMs: 499 }],
    ["k", { ttlMs: 1e9 }],
    ["k", { waitMs: -1 }],
    ["k", { maxHoldMs: 0 }],
    ["k", { ttl: 1 } as object],
  ];
  for (const [key, options] of wrong) await assert.rejects(manager.acquireLock(key, options), code("CONFIG_INVALID"));
});
