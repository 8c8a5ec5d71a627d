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

test(
  "a lock with a limit has so many holders at a time, and no more, also while they compute for longer than its ttl",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 4 } });
    const all = Array.from({ length: 4 }, () => manager.run("share", { key: "places", limit: 2, ms: 700, times: 2 }));
    const most = Math.max(...(await Promise.all(all)));
    assert.equal(most, 2);
    assert.deepEqual(await server.admin.keys("*places*"), ["places: now"], "nothing is left of it");
  },
);

test("a lock with a limit has no fence, tells what holds it, and refuses another limit by name", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, appName: "shop", threads: { count: 1 } });
  const first = await manager.acquireLock("told", { limit: 2 });
  const second = await manager.acquireLock("told", { limit: 2 });
  assert.equal((first as { fence?: number }).fence, undefined);
  const third = await manager.acquireLock("told", { limit: 2, waitMs: 0 }).catch((error: unknown) => error);
  assert.ok(code("LOCK_NOT_ACQUIRED")(third), String(third));
  const { holder } = third as { holder: { name: string; ttlLeftMs: number; since?: number } };
  assert.match(holder.name, /^shop:/);
  assert.ok(holder.ttlLeftMs > 5_000);
  await assert.rejects(manager.acquireLock("told", { limit: 3 }), /have named the limit 2, and this caller 3/);
  const waiting = manager.acquireLock("told", { limit: 2, waitMs: 50_000 });
  await first.release();
  await Promise.all([second, await waiting].map((lock) => lock.release()));
  await (await manager.acquireLock("told", { limit: 3 })).release();
  for (const limit of [0, 1.5, 10_001, Number.NaN])
    await assert.rejects(manager.acquireLock("told", { limit }), code("CONFIG_INVALID"));
});

test("a place that was taken away is lost, and a place whose ttl is over is free", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const lost = await manager.acquireLock("gone", { limit: 2, ttlMs: 500 });
  const [holder] = (await server.admin.call("ZRANGE", "{gone}:holders", "0", "0")) as string[];
  await server.admin.zrem("{gone}:holders", holder!);
  await eventually(() => !lost.isHeld, 10_000, "the loss is found");
  await assert.rejects(lost.release(), code("LOCK_LOST"));
  await manager.run("share", { key: "gone", limit: 2, ms: 0, times: 1 });
  const ends = String(Date.now() + 600);
  await server.admin.call("ZADD", "{gone}:holders", "+inf", "2", ends, "another one", ends, "another two");
  assert.equal(await manager.run("share", { key: "gone", limit: 2, ms: 0, times: 1 }), 1);
});
