import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { examine } from "../../src/cli/doctor.js";
import { connect, disconnect } from "../../src/index.js";
import { makeCertificates } from "../support/certificates.js";
import { Cluster } from "../support/cluster.js";
import { connected, managed, THREADS } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import { code } from "../support/manage.js";

const LIMIT = { timeout: 120_000 };

test(
  "keys of all shards are served in main, threads, leases and synchronous calls, and no connection is left on any node",
  LIMIT,
  async (t) => {
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
  },
);

test("MOVED and ASK are followed", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t);
  const [a, b] = cluster.masters;
  const key = cluster.keyOn(0);
  assert.equal(await redis.incr(key), 1);
  await redis.del(key);
  await cluster.beginMove(key, a!, b!);
  // All three in one turn: each has its own ASKING.
  assert.deepEqual((await Promise.all([redis.incr(key), redis.incr(key)])).toSorted(), [1, 2]);
  await cluster.moveSlot(key, a!, b!);
  assert.deepEqual(await Promise.all([redis.incr(key), redis.incrby(key, 10), redis.get(key)]), [3, 13, "13"]);
  assert.equal(await b!.admin.get(key), "13");
});

test("a WATCH that its node did not accept pins nothing, and the next one finds the right node", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t);
  const [a, b] = cluster.masters;
  const [key, other] = [cluster.keyOn(0), cluster.keyOn(2)];
  await redis.set(other, "elsewhere");
  await cluster.moveSlot(key, a!, b!);
  const watch = (): Promise<(string | null)[]> =>
    redis
      .pipeline()
      .watch(key)
      .get(key)
      .exec()
      .then((replies) => replies!.map(([error]) => error && error.message.split(" ", 1)[0]!));
  assert.deepEqual(await watch(), ["MOVED", "MOVED"]);
  assert.equal(await redis.get(other), "elsewhere");
  assert.deepEqual(await watch(), [null, null]);
  await redis.unwatch();
});

test(
  "an error that comes after the deadline of its command still counts: the client knows that the node is in no transaction",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t, undefined, { commandTimeoutMs: 300 });
    const [node] = cluster.masters;
    const key = cluster.keyOn(0);
    await redis.watch(key);
    await node!.admin.client("PAUSE", 450, "ALL");
    await assert.rejects(redis.exec(), code("COMMAND_TIMEOUT"));
    await eventually(async () => (await node!.admin.ping()) === "PONG");
    await node!.admin.call("ACL", "SETUSER", "default", "-multi");
    await redis.watch(key);
    await assert.rejects(redis.multi({ pipeline: false }), /NOPERM/);
    await redis.subscribe("c"); // in a transaction it would be refused
    await redis.unsubscribe("c");
    await node!.admin.call("ACL", "SETUSER", "default", "+multi");
  },
);

test(
  "pipelines and multi() run as a whole on the node of their first key; keys of several nodes are refused before a byte is sent",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t);
    const [a, b] = [cluster.keyOn(0), cluster.keyOn(1)];
    assert.deepEqual(await redis.pipeline().incr(a).incr(a).exec(), [
      [null, 1],
      [null, 2],
    ]);
    assert.deepEqual(await redis.multi().incr(b).get(b).exec(), [
      [null, 1],
      [null, "1"],
    ]);
    await assert.rejects(redis.pipeline().incr(a).incr(b).exec(), code("NOT_IN_CLUSTER"));
    assert.equal(await redis.get(a), "2");
    await cluster.moveSlot(a, cluster.masters[0]!, cluster.masters[2]!);
    // The first one did not run, but tells of the move.
    const moved = await redis.pipeline().incr(a).exec();
    assert.match(String(moved![0]![0]), /MOVED/);
    assert.deepEqual(await redis.pipeline().incr(a).exec(), [[null, 3]]);
  },
);

test("scripts, prefixes and hash tags find the node of their key", LIMIT, async (t) => {
  const scripts = { addTo: { lua: "return redis.call('incrby', KEYS[1], ARGV[1])", numberOfKeys: 1 } };
  const [redis, cluster] = await connected(t, {}, { scripts, keyPrefix: "app:" });
  const addTo = (key: string, by: number): Promise<unknown> => (redis as unknown as Scripted).addTo(key, by);
  for (const i of [0, 1, 2, 3, 4, 5, 6, 7])
    assert.deepEqual([await addTo(`k${i}`, 2), await addTo(`k${i}`, 3)], [2, 5]);
  const shard = cluster.shardOf("app:k0");
  assert.equal(await cluster.masters[shard]!.admin.get("app:k0"), "5");
  await redis.mset("{tag}a", 1, "{tag}b", 2);
  assert.deepEqual(await redis.mget("{tag}a", "{tag}b"), ["1", "2"]);
  await cluster.moveSlot("app:k0", cluster.masters[shard]!, cluster.masters[(shard + 1) % 3]!);
  assert.equal(await addTo("k0", 7), 12);
});

test("addresses that cannot be reached from here are translated, in the map and in redirections", LIMIT, async (t) => {
  const cluster = await Cluster.start();
  const natMap = await cluster.hideBehindNames();
  const redis = await connect({ env: {}, redis: { ...cluster.redis, natMap, commandTimeoutMs: 2_000 } });
  t.after(() => disconnect(redis));
  cluster.watch(t);
  for (const shard of [0, 1, 2]) assert.equal(await redis.incr(cluster.keyOn(shard)), 1);
  const [a, b] = cluster.masters;
  const [key, other] = [cluster.keyOn(0, "asked"), cluster.keyOn(0, "moved")];
  await cluster.beginMove(key, a!, b!);
  assert.equal(await redis.incr(key), 1);
  await cluster.moveSlot(other, a!, b!);
  assert.equal(await redis.incr(other), 1);
  const bare = connect({ env: {}, redis: cluster.redis, retry: { deadlineMs: 1_000 } });
  await assert.rejects(bare, code("CONNECT_FAILED"));
});

test("a message for a sharded channel is published on the channel's node", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t);
  for (const shard of [0, 1, 2]) {
    const channel = cluster.keyOn(shard, "channel");
    const heard = once(cluster.masters[shard]!.admin, "smessage");
    await cluster.masters[shard]!.admin.ssubscribe(channel);
    assert.equal(await redis.spublish(channel, "news"), 1);
    assert.deepEqual(await heard, [channel, "news"]);
    await cluster.masters[shard]!.admin.sunsubscribe(channel);
  }
});

test(
  "a sharded subscription is on its channel's node, follows its slot, and survives the loss of connection and node",
  LIMIT,
  async (t) => {
    const [manager, cluster] = await managed(t, { replicas: 1 }, { redis: { keyPrefix: "app:" } });
    const [a, b, c] = cluster.masters;
    const channels = [0, 1, 2].map((shard) => cluster.keyOn(shard, "app:news").slice("app:".length));
    const heard: string[] = [];
    let gaps = 0;
    const options = { sharded: true, onGap: () => gaps++ };
    const listen = (message: string, from: string): number => heard.push(`${message} on ${from}`);
    const ends = await Promise.all(channels.map((channel) => manager.subscribe(channel, listen, options)));
    const redis = await manager.getRedis();
    const publish = async (message: string): Promise<void> => {
      for (const channel of channels) {
        await eventually(
          async () => (await redis.spublish(channel, message)) === 1,
          30_000,
          `${channel} is subscribed`,
        );
        await eventually(() => heard.at(-1) === `${message} on ${channel}`);
      }
    };
    await publish("first");
    for (const node of cluster.masters)
      assert.equal(((await node.admin.call("PUBSUB", "SHARDCHANNELS")) as []).length, 1);
    assert.equal(gaps, 0);

    await cluster.moveSlot(`app:${channels[0]}`, a!, b!);
    await publish("moved");
    assert.ok(gaps > 0);
    for (const node of cluster.masters) await node.admin.call("CLIENT", "KILL", "TYPE", "pubsub");
    await publish("reconnected");
    await c!.kill();
    await publish("failed over");
    assert.equal(heard.length, 4 * channels.length);

    const dedicated = manager.run("hear", channels[1]!);
    await eventually(async () => (await redis.spublish(channels[1]!, "lease")) === 2, 10_000);
    assert.deepEqual(await dedicated, [`app:${channels[1]}`, "lease"]);
    await eventually(async () => (await redis.spublish(channels[1]!, "returned")) === 1, 10_000);
    await Promise.all(ends.map((end) => end()));
    for (const channel of channels) await eventually(async () => (await redis.spublish(channel, "over")) === 0);

    for (const node of [a!, b!]) await node.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    const end = await manager.subscribe(channels[1]!, listen, options);
    heard.length = 0;
    await eventually(async () => (await redis.spublish(channels[1]!, "again")) === 1, 10_000);
    await eventually(() => heard.length > 0);
    assert.deepEqual(heard, [`again on ${channels[1]}`]);
    await end();
    await cluster.rejoin(c!);
    await manager.shutdown();
    assert.equal(await cluster.connections(), 0);
  },
);

test("a command that has no node of its own is refused by name, and not sent", LIMIT, async (t) => {
  const [manager, cluster] = await managed(t);
  const redis = await manager.getRedis();
  const refused = [
    redis.dbsize(),
    redis.flushall(),
    redis.keys("*"),
    redis.scan(0),
    redis.sunsubscribe(),
    redis.pipeline().ssubscribe("x").exec(),
    redis.readonly(),
  ];
  for (const one of refused) await assert.rejects(one, code("NOT_IN_CLUSTER"));
  await assert.rejects(redis.watch("k"), code("NEEDS_DEDICATED"));
  await assert.rejects(redis.blpop("k", 1), code("NEEDS_DEDICATED"));
  assert.throws(() => redis.duplicate(), /cannot be duplicated/);
  assert.equal(await redis.ping(), "PONG");
  assert.match(await redis.info("server"), /(?:redis|server)_mode:cluster/);
  assert.equal(await redis.publish("nobody", "x"), 0);
  await manager.shutdown();
  assert.equal(await cluster.connections(), 0);
});

test(
  "a lease stays on one node from WATCH to EXEC, and a watch that was lost with its connection fails the EXEC",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t);
    const key = cluster.keyOn(1);
    await redis.watch(key);
    await redis.set(key, "mine");
    await redis.multi({ pipeline: false });
    const queued = redis.incr("{" + key + "}n");
    assert.equal(await redis.exec(), null); // the key has changed
    assert.equal(await queued, "QUEUED");
    await redis.watch(key);
    assert.deepEqual(await redis.multi().set(key, "again").exec(), [[null, "OK"]]);
    await assert.rejects(redis.multi({ pipeline: false }), code("NOT_IN_CLUSTER"));

    await redis.watch(key);
    await cluster.masters[1]!.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    await assert.rejects(redis.multi().set(key, "lost").exec(), (error: Error) =>
      /NOT_SENT|REPLY_LOST/.test(String((error as { code?: string }).code)),
    );
    assert.equal(await redis.get(key), "again");
    await assert.rejects(redis.wait(0, 100), code("NOT_SENT"));
    await redis.set(key, "once more");
    assert.equal(await redis.wait(0, 100), 0);
  },
);

test("each node's socket takes a permit of its own", LIMIT, async (t) => {
  const max = 3 * (THREADS + 2);
  const [manager, cluster] = await managed(t, {}, { connections: { max } });
  await manager.ready();
  const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
  let most = 0;
  const watching = setInterval(() => void cluster.connections().then((open) => (most = Math.max(most, open))), 20);
  const redis = await manager.getRedis();
  for (let i = 0; i < 30; i++) {
    await Promise.all(
      keys.flatMap((key) => [redis.incr(key), manager.run("incr", key), manager.run("incrDedicated", key)]),
    );
  }
  clearInterval(watching);
  assert.ok(most <= max, `${most} connections of at most ${max}`);
  // A connection that gives way is gone from the server before it is gone from the count.
  await eventually(async () => manager.stats().connections.open === (await cluster.connections()));
});

test("every node of a Cluster with a password and TLS is reached", LIMIT, async (t) => {
  const certificates = await makeCertificates();
  const redis = { password: "secret", tls: { ca: certificates.ca } };
  const [manager, cluster] = await managed(t, { password: "secret", certificates }, { redis });
  t.after(() => certificates[Symbol.asyncDispose]());
  for (const shard of [0, 1, 2]) {
    assert.equal(await manager.run("incr", cluster.keyOn(shard)), 1);
    assert.equal(await manager.run("incrBlocking", cluster.keyOn(shard)), 2);
  }
  const wrong = connect({ env: {}, redis: { ...cluster.redis, ...redis, password: "wrong-one" } });
  await assert.rejects(wrong, (error: Error) => {
    assert.doesNotMatch(JSON.stringify(error) + error.stack!, /wrong-one/);
    return code("AUTH_FAILED")(error);
  });
});

test(
  "if no configured node gives a map, connecting fails with CONNECT_FAILED and each node's reason; one node is enough",
  LIMIT,
  async (t) => {
    const [, cluster] = await connected(t);
    const { port } = cluster.masters[0]!;
    const nodes = [{ host: "127.0.0.1", port: 1 }];
    const one = await connect({ env: { REDTHREAD_REDIS_CLUSTER_NODES: `127.0.0.1:1,127.0.0.1:${port}` } });
    for (let shard = 0; shard < 3; shard++) assert.equal(await one.set(cluster.keyOn(shard), 1), "OK");
    await disconnect(one);
    await assert.rejects(
      connect({ env: {}, redis: { clusterNodes: nodes }, retry: { attempts: 1 } }),
      (error: Error) => {
        assert.match(error.message, /127\.0\.0\.1:1 .*ECONNREFUSED/);
        return code("CONNECT_FAILED")(error);
      },
    );
  },
);

test("the doctor uses the first configured node that can be reached, and finds a Cluster", LIMIT, async (t) => {
  const [, cluster] = await connected(t);
  const clusterNodes = [{ host: "127.0.0.1", port: 1 }, ...cluster.redis.clusterNodes];
  const report = await examine({ env: {}, redis: { clusterNodes } });
  assert.ok(report.ok, JSON.stringify(report));
  const warned = report.checks.filter(({ check, status }) => check === "reachability" && status === "warn");
  const named = warned.map(({ found }) => found.split(" REDTHREAD_")[0]);
  assert.deepEqual(named, ["node 127.0.0.1:1"]);
  assert.match(report.checks.find(({ check }) => check === "server")!.found, /cluster, master/);
  const alone = await examine({ env: {}, redis: { port: cluster.masters[0]!.port } });
  assert.match(alone.checks.find(({ check }) => check === "server")!.advice!, /redis\.clusterNodes/);
});

interface Scripted {
  addTo(key: string, by: number): Promise<unknown>;
}
