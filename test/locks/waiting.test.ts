import assert from "node:assert/strict";
import { after, test } from "node:test";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const server = await startRedis();
after(() => server.stop());

const tasks = fixture("lock-tasks");

const isThere = (key: string) => (): Promise<boolean> => server.admin.exists(key).then((count) => count === 1);
const commands = async (): Promise<number> => {
  const stats = await server.admin.info("commandstats");
  return (
    Number(/cmdstat_eval(?:sha)?:calls=(\d+)/.exec(stats)?.[1] ?? 0) +
    Number(/cmdstat_evalsha:calls=(\d+)/.exec(stats)?.[1] ?? 0)
  );
};

test("many holders in several threads take turns: no update is lost", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const all = Array.from({ length: 8 }, () => manager.run("count", { key: "turns", times: 10, waitMs: 50_000 }));
  await Promise.all(all);
  assert.equal(await server.admin.get("turns: count"), "80");
});

test(
  "a waiter gets the lock as soon as it is released, and asks the server for nothing meanwhile",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks });
    const holder = await manager.acquireLock("released", { ttlMs: 60_000 });
    const waiting = manager
      .run("tryOnce", { key: "warm" })
      .then(() => manager.run("count", { key: "released", times: 1, waitMs: 50_000 }));
    const channel = "{released}:released";
    await eventually(async () => Number((await server.admin.pubsub("NUMSUB", channel))[1]) === 1, 30_000, "it waits");
    await new Promise((resolve) => setTimeout(resolve, 200)); // its second look is over
    const before = await commands();
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(await commands(), before);
    await holder.release();
    await waiting;
    await eventually(
      async () => Number((await server.admin.pubsub("NUMSUB", channel))[1]) === 0,
      5_000,
      "nobody listens",
    );
  },
);

test("a waiter gets a lock that ends by its ttl, of which no message tells", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await server.admin.set("ended", "somebody 1 0 else", "PX", 700);
  await manager.run("count", { key: "ended", times: 1, waitMs: 50_000 });
});

test("a waiter whose user may not subscribe looks from time to time", LIMIT, async (t) => {
  await server.admin.call("ACL", "SETUSER", "mute", "on", ">secret", "~*", "resetchannels", "+@all");
  const manager = manage<typeof Tasks>(t, server, { tasks, redis: { username: "mute", password: "secret" } });
  const holder = await manager.acquireLock("muted", { ttlMs: 60_000 });
  const waiting = manager.run("count", { key: "muted", times: 1, waitMs: 50_000 });
  await eventually(isThere("muted"));
  await holder.release();
  await waiting;
});

test("a waiter gives up after waitMs, with its signal, and with the shutdown", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await server.admin.set("taken", "somebody 1 0 else");
  await assert.rejects(manager.acquireLock("taken", { waitMs: 300 }), code("LOCK_NOT_ACQUIRED"));
  const reason = new Error("enough");
  const controller = new AbortController();
  const waiting = manager.acquireLock("taken", { waitMs: 50_000, signal: controller.signal });
  setTimeout(() => controller.abort(reason), 300);
  await assert.rejects(waiting, reason);
  const last = manager.acquireLock("taken", { waitMs: 50_000 });
  const refused = assert.rejects(last, code("SHUTTING_DOWN"));
  await manager.run("tryOnce", { key: "free" });
  await manager.shutdown();
  await refused;
  assert.equal(await server.admin.get("taken"), "somebody 1 0 else");
});

test("a waiter in a blocked thread is passed over", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const holder = await manager.acquireLock("passed", { ttlMs: 60_000 });
  const first = manager.run("waitThenSpin", { key: "passed", ms: 3_000, waitMs: 50_000 }, { exclusive: true });
  await eventually(isThere("passed: spins"), 30_000, "the first waiter's thread is blocked");
  const startedAt = performance.now();
  const second = manager.run("count", { key: "passed", times: 1, waitMs: 50_000 });
  await new Promise((resolve) => setTimeout(resolve, 300)); // it waits behind the first
  await holder.release();
  await second;
  assert.ok(await isThere("passed: spins")(), `after ${performance.now() - startedAt} ms the first is blocked still`);
  await first;
});

test("a release that is told while the only waiter tries is not missed", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const holder = await manager.acquireLock("missed", { ttlMs: 60_000 });
  const waiting = manager.run("waitThenSpin", { key: "missed", ms: 1_000, waitMs: 50_000 }, { exclusive: true });
  await eventually(isThere("missed: spins"), 30_000, "the waiter's thread is blocked");
  await holder.release();
  await eventually(async () => !(await isThere("missed")()), 5_000, "the waiter has its turn, and cannot try");
  const rival = await manager.acquireLock("missed", { ttlMs: 60_000 });
  await rival.release();
  const startedAt = performance.now();
  await waiting;
  assert.ok(performance.now() - startedAt < 20_000, "it has not waited for the rival's ttl");
});
