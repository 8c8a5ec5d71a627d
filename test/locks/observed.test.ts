import assert from "node:assert/strict";
import { after, test } from "node:test";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { eventually } from "../support/gate.js";
import { blockKeeper, newWorkers } from "../support/keeper.js";
import { code, fixture, manage } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const server = await startRedis();
after(() => server.stop());

const tasks = fixture("lock-tasks");
const NONE = { expired: 0, gone: 0, maxHold: 0, clock: 0 };

const isThere = (key: string) => (): Promise<boolean> => server.admin.exists(key).then((count) => count === 1);

test("stats() counts the locks that are held, their waiters, extensions and losses", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await manager.ready();
  assert.equal(manager.stats().keeper, null);
  await manager.run("keep", { keys: ["a", "b"], ttlMs: 500 });
  const lock = await manager.acquireLock("c", { ttlMs: 500 });
  const keeper = () => manager.stats().keeper!;
  await eventually(() => keeper().held === 3, 5_000, "three are held");
  assert.equal(keeper().state, "connected");
  await eventually(() => keeper().extended >= 3, 5_000, "they are extended");

  const waiting = manager.acquireLock("a", { waitMs: 50_000 });
  await eventually(() => keeper().waiting === 1, 5_000, "one waits");
  await Promise.all([1, 2].map(() => manager.run("releaseAll")));
  await (await waiting).release();
  await lock.release();
  await eventually(() => keeper().held === 0 && keeper().waiting === 0, 5_000, "none is held or awaited");
  assert.deepEqual(keeper().lost, NONE);

  const losing = manager.run("waitForLoss", { key: "deleted", ttlMs: 2_000 });
  await eventually(isThere("deleted"), 30_000, "the lock is there");
  await server.admin.del("deleted");
  await losing;
  await manager.run("computeUntilLost", { key: "hung", maxHoldMs: 600 });
  await eventually(() => keeper().lost.maxHold === 1, 5_000, "both losses are counted");
  assert.deepEqual(keeper().lost, { ...NONE, gone: 1, maxHold: 1 });
  assert.equal(keeper().extensionFailures, 0);
});

test("callers that wait in the thread of the holder count as waiting, also while no keeper runs", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await manager.ready();
  const threads = workers.length;
  const waiting = (count: number) => (): boolean => manager.stats().keeper?.waiting === count;
  const alone = await manager.acquireLock("alone", { ttlMs: 60_000 });
  const shared = await manager.acquireLock("shared", { limit: 2, ttlMs: 60_000 });
  const second = await manager.acquireLock("shared", { limit: 2, ttlMs: 60_000 });
  assert.ok(waiting(0)());
  const controller = new AbortController();
  const { signal } = controller;
  const given = [1, 2, 3].map(() => manager.acquireLock("alone", { ttlMs: 60_000, waitMs: 50_000 }));
  const third = manager.acquireLock("shared", { limit: 2, ttlMs: 60_000, waitMs: 50_000 });
  const impatient = manager.acquireLock("alone", { ttlMs: 60_000, waitMs: 50_000, signal });
  await eventually(waiting(5), 5_000, "five wait");
  await workers[threads]!.terminate();
  await eventually(waiting(5), 5_000, "they wait for the next keeper's word, too");
  controller.abort();
  await assert.rejects(impatient);
  assert.ok(waiting(4)(), "it waits no more");
  await alone.release();
  for (const lock of given) await (await lock).release();
  await second.release();
  await Promise.all([shared, await third].map((lock) => lock.release()));
  await eventually(waiting(0), 5_000, "none waits");
});

test("a thread that ends while its callers wait leaves none of them in the count", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const lock = await manager.acquireLock("held elsewhere", { ttlMs: 60_000 });
  const tries = [1, 2].map(() => manager.run("count", { key: "held elsewhere", times: 1, waitMs: 50_000 }));
  const failed = tries.map((waiting) => assert.rejects(waiting));
  const waiters = (): number | undefined => manager.stats().keeper?.waiting;
  await eventually(() => waiters() === 2, 10_000, "both wait");
  await assert.rejects(manager.run("exit"));
  await Promise.all(failed);
  await eventually(() => waiters() === 0, 10_000, "none waits");
  await lock.release();
});

test("the keeper's connection counts among the open ones", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await manager.run("tryOnce", { key: "opens" });
  await manager.withLock("opens", {}, async () => {});
  const clients = await server.clients();
  assert.ok(clients.some(({ name }) => name.endsWith(":keeper")));
  await eventually(() => manager.stats().connections.open === clients.length, 5_000, "all are counted");
});

test(
  "while the keeper and the holder's thread are blocked stats() answers: the loss is counted, and nothing is held after it",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks });
    const losing = manager.run("computeUntilLost", { key: "blocked", ttlMs: 2_000 });
    const keeper = () => manager.stats().keeper;
    await eventually(() => keeper()?.extended === 1, 30_000, "the lock is held");
    let isBlocked = true;
    await blockKeeper(t, 6_000);
    setTimeout(() => (isBlocked = false), 5_500).unref();
    assert.equal(keeper()?.held, 1);
    await losing;
    assert.deepEqual(keeper()?.lost, { ...NONE, expired: 1 });
    await eventually(() => keeper()?.held === 0, 1_000, "nothing is held any more");
    assert.ok(isBlocked, "the keeper has told nothing of it");
  },
);

test("health() tells of locks that cannot be extended, and the process is ready all the same", LIMIT, async (t) => {
  await using way = await startProxy(server.port);
  const workers = newWorkers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks, redis: { port: way.port }, threads: { count: 1 } });
  await manager.ready();
  const before = workers.length;
  await manager.run("keep", { keys: ["away"], ttlMs: 20_000 });
  await eventually(() => manager.stats().keeper?.held === 1, 5_000, "the lock is held");
  assert.deepEqual(manager.health(), { live: true, ready: true, reasons: [] });
  way.down();
  way.reset();
  const connecting = "locks cannot be extended: the keeper is connecting";
  const isTold = (reason: string) => (): boolean => manager.health().reasons.includes(reason);
  await eventually(isTold(connecting), 5_000, "the keeper's connection is lost");
  assert.equal(manager.stats().keeper?.state, "connecting");
  await way.up();
  await eventually(() => manager.health().reasons.length === 0, 20_000, "it is back");
  assert.equal(manager.health().ready, true);

  const spinning = manager.run("compute", { key: "spins", ms: 3_000 });
  await eventually(isThere("spins"), 30_000, "the thread is blocked, and its host asks for another keeper");
  await workers[before]!.terminate();
  assert.ok(isTold(connecting)(), "another one is started at once");
  assert.equal(manager.health().ready, true);
  assert.equal(manager.stats().keeper?.state, "connecting");
  await spinning;
  await eventually(() => manager.health().reasons.length === 0, 20_000, "another keeper extends it");
  await manager.run("releaseAll");
});

test("commands that fail to extend locks are counted, and are no loss", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const lock = await manager.acquireLock("denied", { ttlMs: 2_000 });
  await server.admin.config("SET", "min-replicas-to-write", "1"); // PEXPIRE in a script is NOREPLICAS
  await eventually(() => manager.stats().keeper!.extensionFailures > 0, 5_000, "one has failed");
  await server.admin.config("SET", "min-replicas-to-write", "0");
  const { extended } = manager.stats().keeper!;
  await eventually(() => manager.stats().keeper!.extended > extended, 5_000, "the next one extends it");
  await lock.release();
  assert.deepEqual(manager.stats().keeper!.lost, NONE);
});

/** With two threads. */
function isWithoutRoom(error: unknown): boolean {
  return (
    code("CONFIG_INVALID")(error) && /connections\.max: must be at least 5 .*threads\.count \+ 3/.test(String(error))
  );
}

test(
  "a lock is refused where connections.max has no place for the keeper, and no keeper is started",
  LIMIT,
  async (t) => {
    const workers = newWorkers(t);
    const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 2 }, connections: { max: 4 } });
    await manager.ready();
    for (const _ of [1, 2]) await assert.rejects(manager.acquireLock("main", {}), isWithoutRoom);
    await assert.rejects(manager.run("tryOnce", { key: "thread" }), isWithoutRoom);
    assert.equal(manager.stats().keeper, null);
    assert.equal(workers.length, 2);
  },
);

test("with one place more than threads and rotation need, every thread has its locks", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 2 }, connections: { max: 5 } });
  await manager.ready();
  await manager.withLock("main", {}, () => Promise.all([1, 2].map((i) => manager.run("tryOnce", { key: `${i}` }))));
});
