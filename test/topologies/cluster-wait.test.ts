import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, disconnect } from "../../src/index.js";
import type { RedisHandle } from "../../src/commands/ioredis.js";
import type { Cluster } from "../support/cluster.js";
import { connected } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import { code } from "../support/manage.js";
import { isReadAt } from "../support/reads.js";

const LIMIT = { timeout: 120_000 };
/** The time after which a WAIT for a frozen replica ends with 0. */
const IN_VAIN_MS = 200;

test("WAIT refers to the last write, whichever node has it", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t, { replicas: 1 });
  await t.test("whatever commands came between", () => afterOthers(redis, cluster));
  await t.test("and to no write on a new connection, also after a read there", () => afterLoss(redis, cluster));
  await t.test("also if it was redirected, and another one was sent since", () => afterRedirection(redis, cluster));
  const reader = await connect({ env: {}, redis: { ...cluster.redis, readFrom: "replica" } });
  await t.test("also if a replica was promoted just now, and only after the answer to the write", () =>
    afterPromotion(reader, cluster),
  );
  await disconnect(reader);
});

async function afterOthers(redis: RedisHandle, cluster: Cluster): Promise<void> {
  const [written, other] = [cluster.keyOn(0), cluster.keyOn(1)];
  await Promise.all([redis.set(written, "x"), redis.set(other, "x")]);
  const between: Record<string, () => Promise<unknown>> = {
    "a read": () => redis.get(other),
    "commands without keys": () => Promise.all([redis.ping(), redis.publish("channel", "message")]),
    "a pipeline of reads": () => redis.pipeline().get(other).strlen(other).exec(),
    "a WATCH": async () => (await redis.watch(other)) && (await redis.unwatch()),
    "a discarded transaction": async () => {
      await redis.watch(other);
      await redis.multi({ pipeline: false });
      await redis.set(other, "never");
      await redis.discard();
    },
  };
  const replica = cluster.replicas[0]!;
  replica.freeze();
  for (const [what, act] of Object.entries(between)) {
    await redis.set(written, "y");
    await act();
    assert.equal(await redis.wait(1, IN_VAIN_MS), 0, what);
  }
  await redis.multi().set(other, "z").exec();
  assert.equal(await redis.wait(1, 10_000), 1, "a transaction");
  await redis.set(written, "z");
  await redis.pipeline().set(other, "z").get(other).exec();
  assert.equal(await redis.wait(1, 10_000), 1, "a pipeline");
  replica.thaw();
}

async function afterPromotion(redis: RedisHandle, cluster: Cluster): Promise<void> {
  const [demoted, promoted, other] = [cluster.masters[0]!, cluster.replicas[0]!, cluster.masters[1]!];
  const [key, earlier] = [cluster.keyOn(0), cluster.keyOn(1)];
  await redis.set(key, "x");
  await eventually(() => isReadAt(promoted, () => redis.get(key)), 10_000);
  await cluster.allowMap(false);
  await cluster.failOver(promoted);
  await redis.set(key, "it has moved");
  await eventually(async () => (await redis.wait(1, 1_000)) === 1, 20_000, "the demoted node is its replica");

  demoted.freeze();
  await redis.set(earlier, "x");
  await redis.set(key, "y");
  assert.equal(await redis.wait(1, IN_VAIN_MS), 0);
  demoted.thaw();

  await redis.set(earlier, "y");
  await promoted.admin.client("PAUSE", 60_000, "WRITE");
  await other.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  const order: string[] = [];
  const settling = [redis.set(key, "z"), redis.wait(1, 1_000)].map((one, i) =>
    one.finally(() => order.push(["write", "WAIT"][i]!)),
  );
  assert.equal(await redis.get(earlier), "y");
  await promoted.admin.client("UNPAUSE");
  await Promise.allSettled(settling);
  assert.deepEqual(order, ["write", "WAIT"]);
}

async function afterRedirection(redis: RedisHandle, cluster: Cluster): Promise<void> {
  const [from, to] = cluster.masters;
  const [key, later] = [cluster.keyOn(0, "moved"), cluster.keyOn(2)];
  await Promise.all([redis.set(key, "x"), redis.set(later, "x")]);
  await cluster.moveSlot(key, from!, to!);
  const replica = cluster.replicas[1]!;
  replica.freeze();
  const [, confirmed] = await Promise.all([redis.set(key, "y"), redis.wait(1, IN_VAIN_MS), redis.set(later, "y")]);
  assert.equal(confirmed, 0);
  assert.equal(await redis.wait(1, 10_000), 1);
  replica.thaw();
}

async function afterLoss(redis: RedisHandle, cluster: Cluster): Promise<void> {
  const key = cluster.keyOn(0);
  await redis.set(key, "x");
  await cluster.masters[0]!.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await eventually(async () => (await redis.get(key)) === "x", 10_000);
  await assert.rejects(redis.wait(1, 100), code("NOT_SENT"));
  await redis.set(key, "y");
  assert.equal(await redis.wait(1, 10_000), 1);
}
