import assert from "node:assert/strict";
import { test } from "node:test";
import { connected } from "../support/clustered.js";
import { forgetCommands } from "../support/forget-commands.js";
import { code } from "../support/manage.js";

const LIMIT = { timeout: 120_000 };

forgetCommands("getset", "append", "zdiff");

for (const keyPrefix of ["", "app:"]) {
  const what = keyPrefix === "" ? "" : ", and get the keyPrefix";
  test(`commands that ioredis' table does not know go to the node of their key${what}`, LIMIT, async (t) => {
    const [redis, cluster] = await connected(t, {}, { keyPrefix });
    for (let shard = 0; shard < 3; shard++) {
      const key = cluster.keyOn(shard, keyPrefix + "k");
      const name = key.slice(keyPrefix.length);
      assert.equal(await redis.call("GETSET", name, "1"), null);
      assert.deepEqual(await redis.pipeline().call("GETSET", name, "2").get(name).exec(), [
        [null, "1"],
        [null, "2"],
      ]);
      assert.deepEqual(await redis.multi().call("GETSET", name, "3").call("APPEND", name, "4").exec(), [
        [null, "2"],
        [null, 2],
      ]);
      assert.equal(await cluster.masters[shard]!.admin.get(key), "34");
      await redis.zadd(`{${name}}z`, 1, "x");
      assert.deepEqual(await redis.pipeline().call("ZDIFF", "1", `{${name}}z`).exec(), [[null, ["x"]]]);
    }
  });
}

test("a transaction on one node does not keep the client from asking another", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t, {}, { keyPrefix: "app:" });
  for (let shard = 0; shard < 3; shard++) {
    const key = cluster.keyOn(shard, "app:z").slice("app:".length);
    await redis.zadd(key, 1, "x");
    await redis.watch(key);
    await redis.multi({ pipeline: false });
    assert.equal(await redis.call("ZDIFF", "1", key), "QUEUED");
    assert.deepEqual(await redis.exec(), [[null, ["x"]]]);
  }
});

test(
  "if the nodes do not tell where keys are, single commands are redirected and pipelines are refused",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t);
    for (const { admin } of cluster.masters) await admin.acl("SETUSER", "default", "-command");
    const key = cluster.keyOn(1);
    assert.equal(await redis.call("GETSET", key, "1"), null);
    assert.equal(await redis.call("GETSET", key, "2"), "1");
    await assert.rejects(redis.pipeline().call("GETSET", key, "3").exec(), code("COMMAND_REFUSED"));
    assert.equal(await redis.get(key), "2");
  },
);

test(
  "a pipeline is refused if its unknown commands belong to several nodes, or to an unknown one",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t);
    const [a, b] = [cluster.keyOn(0), cluster.keyOn(1)];
    await assert.rejects(redis.pipeline().call("GETSET", a, "1").call("GETSET", b, "1").exec(), code("NOT_IN_CLUSTER"));
    for (const batch of [redis.pipeline(), redis.multi()]) {
      await assert.rejects(batch.set(a, "1").call("NOSUCH", a).exec(), code("COMMAND_REFUSED"));
    }
    assert.equal(await redis.get(a), null);
    await assert.rejects(redis.call("NOSUCH", a), /unknown command/);
  },
);
