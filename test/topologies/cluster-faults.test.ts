import assert from "node:assert/strict";
import { connect as connectTcp } from "node:net";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ReplyLostError } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { Cluster } from "../support/cluster.js";
import { connected, managed } from "../support/clustered.js";
import { CountedLoad } from "../support/counted-load.js";
import { eventually } from "../support/gate.js";
import { hangUpOn } from "../support/hang-up.js";
import { rejection } from "../support/make-client.js";
import { code, fixture, manage } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 120_000 };
const IDLE_CHECK_MS = 100;

/** A manager with one thread that reaches each node through a proxy. */
async function behindProxies(t: TestContext) {
  const cluster = await Cluster.start();
  const ways = await Promise.all(cluster.masters.map(({ port }) => startProxy(port)));
  const natMap = Object.fromEntries(
    cluster.masters.map(({ port }, shard) => [`127.0.0.1:${port}`, { host: "127.0.0.1", port: ways[shard]!.port }]),
  );
  const redis = { natMap, commandTimeoutMs: 4_000, idleCheckMs: IDLE_CHECK_MS, whenDown: "fail" } as const;
  const manager = manage<typeof Tasks>(t, cluster.masters[0]!, {
    tasks: fixture("topology-tasks"),
    threads: { count: 1 },
    redis: { ...cluster.redis, ...redis },
  });
  cluster.watch(t);
  return { manager, cluster, ways };
}

test(
  "the death of a node opens only its own breaker: the others are reached, also by new connections, one handshake at a time",
  LIMIT,
  async (t) => {
    const [manager, cluster] = await managed(
      t,
      {},
      { connections: { connecting: 1 }, redis: { commandTimeoutMs: 3_000 } },
    );
    await manager.ready();
    const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
    const incrAll = (shards: readonly number[]): Promise<number[]> =>
      Promise.all(shards.flatMap((shard) => Array.from({ length: 8 }, () => manager.run("incr", keys[shard]!))));
    await incrAll([0, 1, 2]);
    await cluster.allowPartial();
    await cluster.masters[0]!.kill();
    const dead = Promise.allSettled([manager.run("incr", keys[0]!), manager.run("incrDedicated", keys[0]!)]);
    await eventually(() => manager.stats().breaker.state !== "closed");
    for (const node of cluster.masters.slice(1))
      await node.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    const startedAt = performance.now();
    await eventually(() => incrAll([1, 2]), 5_000);
    t.diagnostic(`the others are back after ${Math.round(performance.now() - startedAt)} ms`);
    for (const { status, reason } of (await dead) as PromiseRejectedResult[]) {
      assert.equal(status, "rejected");
      assert.match(String((reason as { code: string }).code), /NOT_SENT|CIRCUIT_OPEN|REPLY_LOST/);
    }
    await cluster.masters[0]!.start();
    await eventually(() => manager.run("incr", keys[0]!), 15_000);
    await eventually(() => manager.stats().breaker.state === "closed");
  },
);

test(
  "when a master is killed under load, no write that a replica has is lost, none runs twice, and the other shards fail none",
  LIMIT,
  async (t) => {
    const [manager, cluster] = await managed(t, { replicas: 1 });
    await manager.ready();
    const failed = [0, 0, 0];
    const watched = async (key: string, write: () => Promise<unknown>): Promise<unknown> => {
      try {
        return await write();
      } catch (error) {
        failed[cluster.shardOf(key)]!++;
        throw error;
      }
    };
    const replicated = new CountedLoad({
      callers: 8,
      async write(key) {
        const replicas = await watched(key, () => manager.run("incrReplicated", key));
        if ((replicas as number) < 1) throw new ReplyLostError("the master alone has it");
      },
    });
    let n = 0;
    const others = new CountedLoad({
      callers: 8,
      write: () => {
        const key = cluster.keyOn(1 + (n % 2), `other:${n++}`);
        return watched(key, () => manager.run("incr", key));
      },
    });
    await replicated.progress(300);
    await cluster.masters[0]!.killDuringWait(cluster.replicas[0]!);
    await eventually(
      async () => (await cluster.ownerOf(0, cluster.masters[1]!)) === cluster.replicas[0]!.port,
      30_000,
      "the replica has taken over",
    );
    await replicated.progress(300, 30_000);
    await Promise.all([replicated.stop(), others.stop()]);
    t.diagnostic(`${replicated.summary()}; failed by shard: ${failed.join(", ")}`);
    t.diagnostic(`the others: ${others.summary()}`);
    assert.deepEqual(await replicated.problems(cluster), []);
    assert.deepEqual(failed.slice(1), [0, 0]);
    const { uncertain, notSent } = replicated.ledger.totals;
    assert.ok(uncertain + notSent > 0, "the fault has hit no write");
    await cluster.rejoin(cluster.masters[0]!);
    await eventually(() => manager.stats().breaker.state === "closed");
    await manager.shutdown();
    assert.equal(await cluster.connections(), 0);
  },
);

test("commands for a dead master run on its replica once that is promoted, pipelines as a whole", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t, { replicas: 1 }, { commandTimeoutMs: 15_000 });
  const key = cluster.keyOn(0);
  await redis.incr(key);
  await redis.wait(1, 1_000);
  await cluster.masters[0]!.kill();
  await eventually(() => redis.status === "ready" && isRefused(cluster.masters[0]!.port));
  const watched = `{${key}}watched`;
  // These are held as well, but go to no other node: without their WATCH they would mean something else.
  const transaction = [
    redis.watch(watched),
    redis.multi({ pipeline: false }),
    redis.set(watched, "x"),
    redis.exec(),
  ].map(rejection);
  const asked = [redis.incr(key), redis.pipeline().incr(key).incr(key).exec(), redis.multi().incr(key).exec()];
  const expected = [
    2,
    [
      [null, 3],
      [null, 4],
    ],
    [[null, 5]],
  ];
  assert.deepEqual(await Promise.all(asked), expected);
  for (const failure of await Promise.all(transaction)) assert.ok(code("NOT_SENT")(failure), String(failure));
  assert.equal(await redis.get(watched), null);
  await cluster.masters[0]!.start();
});

test("a planned failover under load fails no write", LIMIT, async (t) => {
  const [manager, cluster] = await managed(t, { replicas: 1 });
  await manager.ready();
  let writes = 0;
  const load = new CountedLoad({
    callers: 8,
    write: (key) => manager.run(++writes % 2 === 0 ? "incrDedicated" : "incr", key),
  });
  await load.progress(200);
  await cluster.failOver(cluster.replicas[1]!);
  await load.progress(200, 30_000);
  await load.stop();
  t.diagnostic(load.summary());
  assert.deepEqual(await load.problems(cluster), []);
  const { uncertain, notSent } = load.ledger.totals;
  assert.deepEqual([uncertain, notSent], [0, 0]);
});

test(
  "under load each write that is cut off rejects with its true outcome, and none runs twice, whichever node cuts",
  LIMIT,
  async (t) => {
    const [manager, cluster] = await managed(t);
    await manager.ready();
    const tasks = ["incr", "incrDedicated", "incrBlocking"] as const;
    let writes = 0;
    const load = new CountedLoad({ callers: 8, write: (key) => manager.run(tasks[++writes % 3]!, key) });
    for (let cut = 0; cut < 6; cut++) {
      await load.progress(200);
      await cluster.masters[cut % 3]!.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    }
    await load.progress(200);
    await load.stop();
    t.diagnostic(load.summary());
    assert.deepEqual(await load.problems(cluster), []);
  },
);

test(
  "a node's connection that went dead while it was idle is found before it is written to, and the other nodes go on",
  LIMIT,
  async (t) => {
    const { manager, cluster, ways } = await behindProxies(t);
    const [key, other] = [cluster.keyOn(0), cluster.keyOn(1)];
    await Promise.all([manager.run("incr", key), manager.run("incr", other)]);
    ways[0]!.strand();
    await sleep(3 * IDLE_CHECK_MS);
    let isAnswered = false;
    const answered = Promise.all([manager.run("incr", key), manager.run("incr", key)]).finally(
      () => (isAnswered = true),
    );
    assert.equal(await manager.run("incr", other), 2);
    assert.equal(isAnswered, false);
    assert.deepEqual(await answered, [2, 3]);
    await manager.shutdown();
    await Promise.all(ways.map((way) => way[Symbol.asyncDispose]()));
  },
);

test(
  "a command that follows ASK keeps its ASKING while the idle connection of its node is checked by a PING",
  LIMIT,
  async (t) => {
    const { manager, cluster, ways } = await behindProxies(t);
    const [a, b] = cluster.masters;
    const [key, other] = [cluster.keyOn(0, "asked"), cluster.keyOn(1)];
    await Promise.all([manager.run("incr", cluster.keyOn(0)), manager.run("incr", other)]);
    await cluster.beginMove(key, a!, b!);
    await sleep(3 * IDLE_CHECK_MS);
    ways[1]!.latencyMs = 300;
    assert.deepEqual(await Promise.all([manager.run("incr", other), manager.run("incr", key)]), [2, 1]);
    assert.match(await b!.admin.info("commandstats"), /cmdstat_asking:calls=1,/);
    await manager.shutdown();
    await Promise.all(ways.map((way) => way[Symbol.asyncDispose]()));
  },
);

test(
  "subscriptions move to another node when their node dies, and their listeners are told of the gap",
  LIMIT,
  async (t) => {
    const [manager, cluster] = await managed(t);
    const received: string[] = [];
    let gaps = 0;
    const stop = await manager.subscribe("news", (message) => void received.push(message), { onGap: () => gaps++ });
    await cluster.masters[0]!.admin.publish("news", "first");
    await eventually(() => received.includes("first"));
    const holds = await Promise.all(
      cluster.masters.map(async (node) => (await node.clients()).some(({ name }) => name.endsWith(":subscriber"))),
    );
    const dead = cluster.masters[holds.indexOf(true)]!;
    const living = cluster.masters.filter((node) => node !== dead);
    await cluster.allowPartial();
    await dead.kill();
    await eventually(() => gaps > 0, 10_000);
    // Nodes pass a message on at most once, and on a busy machine it may be lost: then another one is published.
    let round = 0;
    const areAllReceived = async (): Promise<boolean> => {
      round++;
      for (const node of living) await node.admin.publish("news", `${round} of ${node.port}`);
      await sleep(100);
      return living.every(({ port }) => received.includes(`${round} of ${port}`));
    };
    await eventually(areAllReceived, 10_000, "messages of each living node arrive");
    t.diagnostic(`messages of all nodes arrived in round ${round}, after ${gaps} gaps`);
    assert.equal(new Set(received).size, received.length, "no message arrives twice");
    await dead.start();
    await stop();
  },
);

test("a node that is connected but silent does not keep the subscriptions that move to it", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t, {}, { commandTimeoutMs: 500 });
  const received: string[] = [];
  redis.on("message", (_channel, message: string) => received.push(message));
  await redis.subscribe("news");
  const counts = await Promise.all(cluster.masters.map(subscribers));
  const holder = counts.indexOf(1);
  const [dead, silent, last] = [0, 1, 2].map((i) => cluster.masters[(holder + i) % 3]!);
  await redis.get(cluster.keyOn((holder + 1) % 3)); // a connected node is chosen first
  await cluster.allowPartial();
  silent!.freeze();
  await dead!.kill();
  await eventually(async () => (await subscribers(last!)) === 1, 10_000, "the last node has the subscription");
  await last!.admin.publish("news", "still received");
  await eventually(() => received.length > 0, 10_000);
  assert.deepEqual(received, ["still received"]);
  silent!.thaw();
  await dead!.start();
});

async function subscribers({ admin }: RedisServer): Promise<number> {
  return Number((await admin.pubsub("NUMSUB", "news"))[1]);
}

test("a node that freezes delays only its own commands, until its replica serves", LIMIT, async (t) => {
  const [manager, cluster] = await managed(
    t,
    { replicas: 1 },
    { redis: { commandTimeoutMs: 500, heartbeatMs: 500, connectTimeoutMs: 500 } },
  );
  await manager.ready();
  const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
  for (const key of keys) await manager.run("incr", key);
  await cluster.allowPartial();
  cluster.masters[0]!.freeze();
  const frozen = manager.run("incr", keys[0]!);
  for (let i = 0; i < 20; i++) await Promise.all(keys.slice(1).map((key) => manager.run("incr", key)));
  await assert.rejects(frozen, code("COMMAND_TIMEOUT"));
  await eventually(() => manager.run("incr", keys[0]!), 15_000);
  for (let i = 0; i < 20; i++) await Promise.all(keys.map((key) => manager.run("incr", key)));
  cluster.masters[0]!.thaw();
});

test(
  "a shutdown while a node is dead leaves no connection and rejects the tasks that wait for it",
  LIMIT,
  async (t) => {
    const [manager, cluster] = await managed(t);
    await manager.ready();
    await cluster.allowPartial();
    const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
    for (const key of keys) await manager.run("incr", key);
    await cluster.masters[0]!.kill();
    const waiting = [
      manager.run("incr", keys[0]!),
      manager.run("incrDedicated", keys[0]!),
      manager.run("incrBlocking", keys[0]!),
    ];
    const settled = Promise.allSettled(waiting);
    await manager.shutdown({ drainMs: 200, closeMs: 1_000 });
    assert.ok((await settled).every(({ status }) => status === "rejected"));
    await eventually(async () => (await cluster.connections()) === 0); // the server finds the end of a thread by itself
    await cluster.masters[0]!.start();
  },
);

test(
  "with whenDown fail the commands for a dead node are refused at once, but none for another node, connected or not",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t, {}, { whenDown: "fail" });
    await cluster.allowPartial();
    const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
    await redis.incr(keys[0]!);
    await cluster.masters[0]!.kill();
    await eventually(async () => {
      const failure = await rejection(redis.incr(keys[0]!));
      return code("CIRCUIT_OPEN")(failure) || code("NOT_SENT")(failure);
    });
    assert.deepEqual(await Promise.all(keys.slice(1).map((key) => redis.incr(key))), [1, 1]);
    await cluster.masters[0]!.start();
  },
);

test("a dead node has one prober, however many threads and leases wait for it", LIMIT, async (t) => {
  const [manager, cluster] = await managed(t, {}, { threads: { count: 4 }, redis: { commandTimeoutMs: 2_000 } });
  await manager.ready();
  const key = cluster.keyOn(0);
  await Promise.all(Array.from({ length: 16 }, () => manager.run("incrDedicated", key)));
  await cluster.allowPartial();
  const [dead] = cluster.masters;
  await dead!.kill();
  dead!.admin.disconnect(); // its attempts would be counted
  const away = await hangUpOn(dead!.port);
  const calls = Array.from({ length: 32 }, (_, i) => manager.run(i % 2 === 0 ? "incr" : "incrDedicated", key));
  const startedAt = performance.now();
  await Promise.allSettled(calls);
  const ms = performance.now() - startedAt; // more than their deadline on a busy machine
  t.diagnostic(`${away.attempts()} attempts in ${Math.round(ms)} ms, ${away.atOnce()} at once`);
  away.server.close();
  // First as many attempts as handshake permits, then one every 250 ms or later, and the ones that a closed lease gave up.
  assert.ok(away.attempts() <= 4 + (ms + 500) / 250 + 6, `${away.attempts()} attempts`);
  await dead!.start();
  await dead!.admin.connect();
  await eventually(() => manager.run("incr", key), 15_000);
});

function isRefused(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTcp({ port, host: "127.0.0.1" });
    socket.once("error", () => resolve(true));
    socket.once("connect", () => (socket.destroy(), resolve(false)));
  });
}
