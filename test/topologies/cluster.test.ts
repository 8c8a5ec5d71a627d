import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { connect, type ConnectionManager, disconnect, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { Cluster, type ClusterShape } from "../support/cluster.js";
import { CountedLoad } from "../support/counted-load.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";

const LIMIT = { timeout: 120_000 };
const THREADS = 2;

type Handle = Awaited<ReturnType<typeof connect>>;

/** A manager of this Cluster; after the test nobody is connected to any of its nodes. */
async function managed(
  t: TestContext,
  shape?: ClusterShape,
  options: Partial<ManagerOptions> = {},
): Promise<[ConnectionManager<typeof Tasks>, Cluster]> {
  const cluster = await Cluster.start(shape);
  const manager = manage<typeof Tasks>(t, cluster.masters[0]!, {
    tasks: fixture("topology-tasks"),
    ...options,
    threads: { count: THREADS, ...options.threads },
    redis: { ...cluster.redis, ...options.redis },
  });
  cluster.watch(t);
  return [manager, cluster];
}

/** A client of one's own. */
async function connected(t: TestContext, shape?: ClusterShape): Promise<[Handle, Cluster]> {
  const cluster = await Cluster.start(shape);
  const client = await connect({ env: {}, redis: cluster.redis });
  t.after(() => disconnect(client));
  cluster.watch(t);
  return [client, cluster];
}

test("keys of all shards are served in main, threads, leases and synchronous calls, and no node lists anybody afterwards", LIMIT, async (t) => {
  const [manager, cluster] = await managed(t);
  await manager.ready();
  const redis = await manager.getRedis();
  assert.equal(redis.status, "ready");
  for (let shard = 0; shard < 3; shard++) {
    const key = cluster.keyOn(shard);
    assert.equal(await redis.incr(key), 1);
    assert.equal(await manager.run("incr", key), 2);
    assert.equal(await manager.run("incrDedicated", key), 3);
    assert.equal(await manager.run("incrBlocking", key), 4);
    assert.equal(await cluster.masters[shard]!.admin.get(key), "4");
  }
  await eventually(async () => manager.stats().connections.open === (await cluster.connections()));
  await manager.shutdown();
  assert.equal(await cluster.connections(), 0);
});

test("a slot that has moved is followed, and one that is moving is asked for", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t);
  const [a, b] = cluster.masters;
  const key = cluster.keyOn(0);
  assert.equal(await redis.incr(key), 1);
  await redis.del(key);
  await cluster.beginMove(key, a!, b!);
  // Both in one turn: each has an ASKING of its own.
  assert.deepEqual((await Promise.all([redis.incr(key), redis.incr(key)])).toSorted(), [1, 2]);
  await cluster.moveSlot(key, a!, b!);
  assert.deepEqual(await Promise.all([redis.incr(key), redis.incrby(key, 10), redis.get(key)]), [3, 13, "13"]);
  assert.equal(await b!.admin.get(key), "13");
});
