import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, managed } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import { getsOf, isReadAt } from "../support/reads.js";

const LIMIT = { timeout: 120_000 };

test(
  "replicas are read once they are connected, but not inside a WATCH; WAIT refers to the write before the read",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t, { replicas: 1 }, { readFrom: "replica" });
    const [master, replica] = [cluster.masters[0]!, cluster.replicas[0]!];
    const key = cluster.keyOn(0);
    await redis.set(key, "x");
    assert.equal(await redis.wait(1, 10_000), 1);
    await eventually(() => isReadAt(replica, () => redis.get(key)));
    const before = await Promise.all([getsOf(master), getsOf(replica)]);
    await Promise.all(Array.from({ length: 50 }, () => redis.get(key)));
    assert.deepEqual(await Promise.all([getsOf(master), getsOf(replica)]), [before[0], before[1] + 50]);

    await redis.watch(key);
    assert.ok(await isReadAt(master, () => redis.get(key)));
    await redis.unwatch();
    assert.ok(await isReadAt(master, () => redis.pipeline().get(key).exec()));

    await redis.set(key, "y");
    await redis.get(key);
    assert.equal(await redis.wait(1, 10_000), 1);
    assert.equal(await redis.get(key), "y");

    // A command without a key goes to a master, also if the replica's connection is the first to be back.
    for (let i = 0; i < 10; i++) {
      await Promise.all(
        [master, replica].map(({ admin }) => admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")),
      );
      assert.match(await redis.info("replication"), /role:master/);
      await redis.get(key);
    }
  },
);

test("a replica that dies and comes back fails no read; threads read from it as well", LIMIT, async (t) => {
  const [manager, cluster] = await managed(
    t,
    { replicas: 1 },
    { redis: { readFrom: "replica", resend: "readonly", commandTimeoutMs: 10_000 } },
  );
  const [master, replica] = [cluster.masters[0]!, cluster.replicas[0]!];
  const key = cluster.keyOn(0);
  const redis = await manager.getRedis();
  await redis.set(key, "x");
  await eventually(async () => (await replica.admin.call("READONLY")) && (await replica.admin.get(key)) === "x");
  const readers = [() => redis.get(key), () => manager.run("get", key), () => manager.run("getDedicated", key)];
  for (const read of readers) await eventually(() => isReadAt(replica, read), 10_000);

  let isOver = false;
  const reads = readers.map(() => 0);
  const reading = readers.flatMap((read, i) =>
    Array.from({ length: 4 }, async () => {
      for (; !isOver; reads[i]!++) assert.equal(await read(), "x");
    }),
  );
  const progress = async (): Promise<void> => {
    const from = [...reads];
    await eventually(() => reads.every((count, i) => count > from[i]! + 60), 30_000, "reads go on");
  };
  await progress();
  // The other masters must not call it dead, so that its slots are served without the replica.
  await master.admin.config("SET", "cluster-node-timeout", 60_000);
  await replica.kill();
  await progress();
  assert.ok((await getsOf(master)) > 0);
  await cluster.rejoin(replica);
  for (const read of readers) await eventually(() => isReadAt(replica, read), 30_000);
  isOver = true;
  await Promise.all(reading);
  await manager.shutdown();
  assert.equal(await cluster.connections(), 0);
});

test("a replica that has lost its master, and must not serve stale data, is not read", LIMIT, async (t) => {
  const password = "open sesame";
  const [redis, cluster] = await connected(t, { replicas: 1, password }, { readFrom: "replica", password });
  const [master, replica] = [cluster.masters[0]!, cluster.replicas[0]!];
  const key = cluster.keyOn(0);
  await redis.set(key, "x");
  await eventually(() => isReadAt(replica, () => redis.get(key)));
  await replica.admin.config("SET", "replica-serve-stale-data", "no");
  await replica.admin.config("SET", "masterauth", "wrong");
  await master.admin.call("CLIENT", "KILL", "TYPE", "replica");
  await eventually(async () => /master_link_status:down/.test(await replica.admin.info("replication")));
  assert.ok(await isReadAt(master, async () => assert.equal(await redis.get(key), "x")));
  await replica.admin.config("SET", "masterauth", password);
});
