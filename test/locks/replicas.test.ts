import assert from "node:assert/strict";
import { after, test } from "node:test";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { eventually } from "../support/gate.js";
import { newWorkers } from "../support/keeper.js";
import { code, fixture, manage } from "../support/manage.js";
import { type ListedClient, startRedis, untilInSync } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const TTL_MS = 600;
const server = await startRedis({ args: ["--repl-diskless-sync-delay", "0"] });
const replica = await startRedis({ args: ["--replicaof", "127.0.0.1", String(server.port)] });
after(() => Promise.all([server, replica].map((one) => one.stop())));
await untilInSync(replica);

const tasks = fixture("lock-tasks");

const ofKeeper = (clients: ListedClient[]): number => clients.filter(({ name }) => name.endsWith(":keeper")).length;

const isBlocked = ({ flags }: ListedClient): boolean => flags.includes("b");

/** The replica acknowledges nothing meanwhile. */
async function frozen<T>(act: () => Promise<T>): Promise<T> {
  replica.freeze();
  try {
    return await act();
  } finally {
    replica.thaw();
  }
}

test(
  "a lock with replicas is on its replica when it is acquired, and is extended while its holder computes",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 2 } });
    const one = await manager.acquireLock("one", { replicas: 1, ttlMs: TTL_MS });
    assert.equal(await replica.admin.exists("one"), 1);
    const bytes = Buffer.from([0xff, 0x7b, 0x00]);
    const places = await Promise.all([1, 2].map(() => manager.acquireLock(bytes, { replicas: 1, limit: 2 })));
    assert.equal(await replica.admin.zcard(Buffer.concat([Buffer.from("{"), bytes, Buffer.from("}:holders")])), 3);
    await server.waitForClients((clients) => ofKeeper(clients) === 2);
    await manager.run("compute", { key: "computed", replicas: 1, ttlMs: TTL_MS, ms: 4 * TTL_MS });
    const { open } = manager.stats().connections;
    const other = await manager.acquireLock("one", { replicas: 1, waitMs: 0 }).catch((error: unknown) => error);
    assert.ok(code("LOCK_NOT_ACQUIRED")(other) && (other as { holder?: object }).holder, String(other));
    await Promise.all([one, ...places].map((lock) => lock.release())); // rejects if one was lost
    assert.equal(await server.admin.exists("one", "computed"), 0);
    await server.waitForClients((clients) => ofKeeper(clients) === 1, 30_000, "its connection is closed");
    await eventually(() => manager.stats().connections.open === open - 1, 5_000, "stats() says so, too");
    await manager.withLock("one", { replicas: 1 }, async () => {}); // on another connection
  },
);

test("a lock that too few replicas have acknowledged is released again, and waited for", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  for (const limit of [1, 2]) {
    const told = await manager
      .acquireLock("few", { replicas: 2, waitMs: 0, ttlMs: TTL_MS, limit })
      .catch((error: unknown) => error);
    assert.ok(code("LOCK_NOT_ACQUIRED")(told), String(told));
    assert.match(String(told), /1 of 2 replicas had acknowledged it; it was released again/);
    assert.deepEqual((told as { replicas?: object }).replicas, { wanted: 2, acknowledged: 1 });
    assert.equal(await server.admin.exists("few", "{few}:holders"), 0);
  }
  const { computing } = await frozen(async () => {
    const acquiring = manager.acquireLock("few", { replicas: 1, waitMs: 100, ttlMs: TTL_MS });
    await assert.rejects(acquiring, /0 of 1 replicas/);
    assert.equal(await server.admin.exists("few"), 0);
    return { computing: manager.run("compute", { key: "few", replicas: 1, waitMs: 50_000, ttlMs: TTL_MS, ms: 0 }) };
  });
  await computing;
});

test("a held lock whose replica is frozen is lost by the time, and no other lock is", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const beside = await manager.acquireLock("beside", { ttlMs: TTL_MS });
  const lock = await manager.acquireLock("stands", { replicas: 1, ttlMs: TTL_MS });
  await frozen(async () => {
    const frozenAt = performance.now();
    await new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
    assert.ok(performance.now() - frozenAt < 20_000);
    assert.ok(manager.stats().keeper!.extensionFailures > 0);
    await eventually(async () => (await server.admin.exists("stands")) === 0, 5_000, "others can have it at once");
  });
  await assert.rejects(lock.release(), (error) => (error as { reason?: string }).reason === "expired");
  await beside.release(); // rejects if it was lost
});

test("a lock outlasts a freeze of its replica that is shorter than its ttl", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const lock = await manager.acquireLock("outlasts", { replicas: 1, ttlMs: 6_000 });
  await frozen(() => eventually(() => manager.stats().keeper!.extensionFailures > 0, 30_000, "one has failed"));
  const { extended } = manager.stats().keeper!;
  await eventually(() => manager.stats().keeper!.extended > extended, 30_000, "the next one extends it");
  await lock.release();
});

test(
  "what was written on a lost connection is not confirmed on the next one: it is acquired once more",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
    let isAcquired = false;
    const acquiring = await frozen(async () => {
      const waiting = manager.acquireLock("cut", { replicas: 1, waitMs: 50_000, ttlMs: 60_000 });
      waiting.then(
        () => (isAcquired = true),
        () => {},
      );
      for (let cuts = 0; cuts < 3; cuts++) {
        const clients = await server.waitForClients((all) => all.some(isBlocked), 30_000, "it waits for the replica");
        const { id } = clients.find(isBlocked)!;
        await server.admin.call("CLIENT", "KILL", "ID", id);
        await server.waitForClients((all) => all.every((one) => one.id !== id));
      }
      await new Promise((resolve) => setTimeout(resolve, 200));
      assert.equal(isAcquired, false);
      return { waiting };
    });
    const lock = await acquiring.waiting;
    assert.equal(await replica.admin.exists("cut"), 1);
    await lock.release();
    assert.equal(await server.admin.exists("cut"), 0);
  },
);

test("a thread that ends leaves no lock with replicas, nor what the keeper had still to acquire", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  await manager.run("keep", { keys: ["dead 1", "dead 2"], replicas: 1, ttlMs: 60_000 });
  const first = await frozen(async () => {
    const acquiring = manager.acquireLock("first", { replicas: 1, waitMs: 50_000, ttlMs: 60_000 });
    await server.waitForClients((all) => all.some(isBlocked), 30_000, "it waits for the replica");
    const dying = manager.run("keep", { keys: ["behind it"], replicas: 1, waitMs: 50_000, ttlMs: 60_000 });
    const died = assert.rejects(dying, code("THREAD_DIED"));
    await new Promise((resolve) => setTimeout(resolve, 150)); // the keeper has its acquire
    await workers[0]!.terminate();
    await died;
    await eventually(async () => (await server.admin.exists("dead 1", "dead 2")) === 0, 5_000, "its locks are free");
    await new Promise((resolve) => setTimeout(resolve, 300)); // the releases for a dead thread are over
    return { acquiring };
  });
  await (await first.acquiring).release();
  await manager.withLock("behind it", { replicas: 1, waitMs: 5_000 }, async () => {});
});

test("when the keeper ends while it acquires a lock with replicas, the next one acquires it", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  await manager.ready();
  const keeper = workers.length;
  const { acquiring } = await frozen(async () => {
    const waiting = manager.acquireLock("next", { replicas: 1, waitMs: 50_000, ttlMs: 60_000 });
    await server.waitForClients((all) => all.some(isBlocked), 30_000, "it waits for the replica");
    await workers[keeper]!.terminate();
    return { acquiring: waiting };
  });
  await (await acquiring).release();
  assert.equal(await server.admin.exists("next"), 0);
});

test("without the right to WAIT a lock with replicas is refused as by the server, and released", LIMIT, async (t) => {
  await server.admin.call("ACL", "SETUSER", "holder", "reset", "on", ">secret", "~*", "&*", "+@all", "-wait");
  const manager = manage<typeof Tasks>(t, server, {
    tasks,
    redis: { username: "holder", password: "secret" },
    threads: { count: 1 },
  });
  await assert.rejects(manager.acquireLock("denied", { replicas: 1, ttlMs: 60_000 }), /NOPERM.*wait/);
  assert.equal(await server.admin.exists("denied"), 0);
  await manager.withLock("denied", {}, async () => {});
});

test("connections.max needs one place more for locks with replicas", LIMIT, async (t) => {
  const small = manage<typeof Tasks>(t, server, { tasks, threads: { count: 2 }, connections: { max: 5 } });
  await small.ready();
  await small.withLock("room", {}, async () => {});
  const problem = /connections\.max: must be at least 6 for locks with replicas \(threads\.count \+ 4\)/;
  for (const acquire of [
    small.acquireLock("room", { replicas: 1 }),
    small.run("tryOnce", { key: "room", replicas: 1 }),
  ])
    await assert.rejects(acquire, (error) => code("CONFIG_INVALID")(error) && problem.test(String(error)));
});

test("with this place more every thread has its locks with replicas", LIMIT, async (t) => {
  const enough = manage<typeof Tasks>(t, server, { tasks, threads: { count: 2 }, connections: { max: 6 } });
  await enough.ready();
  const inThreads = ["a", "b"].map((key) => enough.run("tryOnce", { key, replicas: 1 }));
  await enough.withLock("room", { replicas: 1 }, () => Promise.all(inThreads));
});

test("the number of replicas is a whole number, 0 to 10", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  for (const replicas of [-1, 0.5, 11, Number.NaN])
    await assert.rejects(manager.acquireLock("wrong", { replicas }), /replicas must be a whole number, 0 to 10/);
});
