import assert from "node:assert/strict";
import { test } from "node:test";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { Cluster } from "../support/cluster.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { Watched } from "../support/sentinel.js";

const LIMIT = { timeout: 120_000 };
const TTL_MS = 500;

test(
  "in a Cluster locks of all nodes are kept while their holder computes, and fences lie beside them",
  LIMIT,
  async (t) => {
    const cluster = await Cluster.start();
    const manager = manage<typeof Tasks>(t, cluster.masters[0]!, {
      tasks: fixture("lock-tasks"),
      redis: { ...cluster.redis },
    });
    cluster.watch(t);
    const keys = [0, 1, 2].flatMap((shard) => [cluster.keyOn(shard), `{${cluster.keyOn(shard)}}:tagged`]);
    await manager.run("keep", { keys, ttlMs: TTL_MS });
    const computing = manager.run("compute", { key: "computing", ttlMs: TTL_MS, ms: 3 * TTL_MS });
    const until = performance.now() + 3 * TTL_MS;
    while (performance.now() < until) {
      await assert.rejects(manager.acquireLock(keys[2]!, { waitMs: 0 }), code("LOCK_NOT_ACQUIRED"));
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await computing;
    const waiting = manager.acquireLock(keys[0]!, { waitMs: 50_000 });
    await Promise.all([1, 2].map(() => manager.run("releaseAll")));
    await (await waiting).release();
    await assert.rejects(manager.acquireLock("a}b", {}), code("NOT_IN_CLUSTER"));
    await assert.rejects(manager.acquireLock("a", { replicas: 1 }), code("CONFIG_INVALID"));
  },
);

test("locks outlast a failover: the keeper follows the master", LIMIT, async (t) => {
  const watched = await Watched.start();
  const { master, replica, sentinels } = watched;
  const manager = manage<typeof Tasks>(t, replica, { tasks: fixture("lock-tasks"), redis: watched.redis });
  t.after(() => watched[Symbol.asyncDispose]());
  await manager.run("keep", { keys: ["outlasts"], ttlMs: 10_000 });
  await eventually(async () => (await replica.admin.exists("outlasts")) === 1, 10_000, "the replica has the lock");
  await sentinels[0]!.admin.call("SENTINEL", "FAILOVER", "m1");
  await watched.failedOver();
  const until = performance.now() + 12_000;
  while (performance.now() < until) {
    assert.equal(await replica.admin.exists("outlasts"), 1);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.equal(await master.admin.exists("outlasts"), 1); // as the new master's replica
  await Promise.all([1, 2].map(() => manager.run("releaseAll")));
});

test("a lock with replicas outlasts the death of its master, and needs a replica of the new one", LIMIT, async (t) => {
  const watched = await Watched.start();
  const { master, replica } = watched;
  const manager = manage<typeof Tasks>(t, replica, { tasks: fixture("lock-tasks"), redis: watched.redis });
  t.after(() => watched[Symbol.asyncDispose]());
  const lock = await manager.acquireLock("survives", { replicas: 1, ttlMs: 40_000 });
  await master.kill();
  await watched.failedOver();
  assert.equal(await replica.admin.exists("survives"), 1);
  const rival = manager.run("tryOnce", { key: "survives" });
  await assert.rejects(rival, code("LOCK_NOT_ACQUIRED"));
  await assert.rejects(manager.acquireLock("other", { replicas: 1, waitMs: 0 }), /0 of 1 replicas/);
  await master.start();
  await watched.follow();
  const { extended } = manager.stats().keeper!;
  await eventually(() => manager.stats().keeper!.extended > extended, 30_000, "the new replica acknowledges it");
  await lock.release(); // rejects if it was lost
});
