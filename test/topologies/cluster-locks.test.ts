import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { Cluster, type ClusterShape } from "../support/cluster.js";
import { lockingOn, scriptsRun } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import type { RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 120_000 };
const TTL_MS = 60_000;

/** A holder's manager and a waiter's on a new Cluster. */
async function two(
  t: TestContext,
  shape: ClusterShape = {},
  redis: ManagerOptions["redis"] = {},
  logger?: ManagerOptions["logger"],
): Promise<[cluster: Cluster, holder: ConnectionManager<typeof Tasks>, waiter: ConnectionManager<typeof Tasks>]> {
  const cluster = await Cluster.start(shape);
  const managers = [lockingOn(t, cluster, redis, logger), lockingOn(t, cluster, redis, logger)] as const;
  cluster.watch(t);
  return [cluster, ...managers];
}

const listeners = async ({ admin }: RedisServer, channel: string): Promise<number> =>
  Number(((await admin.call("PUBSUB", "SHARDNUMSUB", channel)) as [string, number])[1]);

/** Waits until a waiter listens there, and has asked the node for nothing for a second: without a channel it looks more often. */
async function untilItListens(node: RedisServer, channel: string): Promise<number> {
  let before = -1;
  const isSilent = async (): Promise<boolean> => {
    if ((await listeners(node, channel)) !== 1) return false;
    before = await scriptsRun(node);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    return (await scriptsRun(node)) === before;
  };
  await eventually(isSilent, 30_000, "it listens, and does not look");
  return before;
}

test("in a Cluster a waiter of another process gets its turn by the release, and never looks", LIMIT, async (t) => {
  const [cluster, holder, waiter] = await two(t);
  const node = cluster.masters[1]!;
  for (const limit of [1, 2]) {
    const key = cluster.keyOn(1, `limit ${limit}`);
    const channel = `{${key}}:released`;
    const options = { limit, ttlMs: TTL_MS, waitMs: 50_000 };
    const others = await Promise.all(Array.from({ length: limit - 1 }, () => holder.acquireLock(key, options)));
    let tookMs = 0;
    for (let round = 0; round < 3; round++) {
      const lock = await holder.acquireLock(key, options);
      const waiting = waiter.acquireLock(key, options);
      const before = await untilItListens(node, channel);
      const startedAt = performance.now();
      await lock.release();
      const next = await waiting;
      tookMs += performance.now() - startedAt;
      assert.equal(await scriptsRun(node), before + 2, "the release, and one acquire");
      await next.release();
    }
    assert.ok(tookMs < 6_000, `by looks, one after 5 s, it would have taken longer than ${tookMs} ms`);
    await Promise.all(others.map((one) => one.release()));
    await eventually(async () => (await listeners(node, channel)) === 0, 5_000, "nobody listens any more");
  }
});

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
  assert.equal(await scriptsRun(to), moved + 2, "the release, and one acquire");

  const replica = cluster.replicas[1]!;
  const last = holder.acquireLock(key, { ttlMs: TTL_MS, waitMs: 100_000 });
  await untilItListens(to, channel);
  await cluster.failOver(replica);
  const failedOver = await untilItListens(replica, channel);
  await next.release();
  await (await last).release();
  assert.equal(await scriptsRun(replica), failedOver + 3, "the release, one acquire and its release");
});

/** What the nodes lack, or what the user may not do. */
const MUTE: readonly [why: string, shape: ClusterShape, rights: readonly string[]][] = [
  ["on servers without sharded channels", { without: ["SPUBLISH", "SSUBSCRIBE"] }, []],
  ["without the right to SPUBLISH and SSUBSCRIBE", {}, ["-spublish", "-ssubscribe"]],
  ["without the right to the channel", {}, ["resetchannels"]],
];

for (const [why, shape, rights] of MUTE) {
  test(`in a Cluster ${why} locks are released, and waiters look from time to time`, LIMIT, async (t) => {
    const lines: string[] = [];
    const note = (message: string): void => void lines.push(message);
    const logger = { debug: note, info: note, warn: note, error: note };
    const [cluster, holder, waiter] = await two(t, shape, { username: "mute", password: "secret" }, logger);
    for (const { admin } of cluster.nodes)
      await admin.call("ACL", "SETUSER", "mute", "on", ">secret", "~*", "&*", "+@all", ...rights);
    const key = cluster.keyOn(2);
    const node = cluster.masters[2]!;
    const lock = await holder.acquireLock(key, { ttlMs: TTL_MS });
    const waiting = waiter.acquireLock(key, { waitMs: 50_000 });
    await eventually(async () => (await scriptsRun(node)) > 10, 30_000, "it looks");
    await lock.release();
    await (await waiting).release();
    assert.equal(await node.admin.exists(key), 0);
    assert.ok(!lines.some((line) => line.includes("could not be released")), lines.join("\n"));
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
