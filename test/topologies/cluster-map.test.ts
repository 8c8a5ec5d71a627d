import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, disconnect, type Logger } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { Cluster } from "../support/cluster.js";
import { connected, managed } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import { rejection } from "../support/make-client.js";
import { code, fixture, manage } from "../support/manage.js";
import { freePort } from "../support/redis-server.js";
import { startProxy } from "../support/proxy.js";

const LIMIT = { timeout: 120_000 };

test(
  "a master that is cut off from the others is left for its promoted replica, and gives new processes no map",
  LIMIT,
  async (t) => {
    const [manager, cluster] = await managed(t, { replicas: 1, hasBus: true });
    await manager.ready();
    const [cutOff, other] = cluster.masters;
    const key = cluster.keyOn(0);
    await manager.run("incr", key);
    const redis = await manager.getRedis();
    await redis.incr(key);
    cluster.bus.cut(cutOff!);
    const ask = redis.call.bind(redis, "INCR", key);
    await eventually(
      async () => (await cluster.ownerOf(0, other!)) === cluster.replicas[0]!.port,
      60_000,
      "the replica has taken over",
    );
    const answers = await Promise.all([eventually(ask, 20_000), eventually(() => manager.run("incr", key), 20_000)]);
    assert.ok(answers.every((answer) => Number(answer) > 0));
    assert.equal(await cutOff!.admin.cluster("INFO").then((info) => /cluster_state:fail/.test(String(info))), true);
    const listed = [cutOff!, other!].map(({ port }) => ({ host: "127.0.0.1", port }));
    const fresh = await connect({
      env: {},
      redis: { clusterNodes: listed, commandTimeoutMs: 1_000, whenDown: "fail" },
    });
    assert.ok((await fresh.incr(key)) > 0);
    await disconnect(fresh);
    await eventually(() => manager.stats().breaker.state === "closed", 20_000, "the breaker is closed");
    cluster.bus.heal(cutOff!);
  },
);

test("a master that is cut off and not replaced is reported as down until it is back", LIMIT, async (t) => {
  const [manager, cluster] = await managed(t, { hasBus: true }, { redis: { whenDown: "fail" }, threads: { count: 1 } });
  await manager.ready();
  const redis = await manager.getRedis();
  const [cutOff] = cluster.masters;
  const key = cluster.keyOn(0);
  cluster.bus.cut(cutOff!);
  await eventually(async () => String((await rejection(redis.get(key)))?.message).startsWith("CLUSTERDOWN"), 30_000);
  await eventually(() => manager.stats().breaker.state !== "closed", 20_000, "the breaker tells");
  assert.ok(manager.health().reasons.includes("a node of the Cluster is away"), String(manager.health().reasons));
  cluster.bus.heal(cutOff!);
  await eventually(async () => (await redis.get(key)) === null, 30_000, "it serves again");
  await eventually(() => manager.stats().breaker.state === "closed", 20_000, "the breaker is closed");
  assert.deepEqual(manager.health().reasons, []);
});

test(
  "a replica that is removed from the Cluster is left, and the reads that it refuses go to another node",
  LIMIT,
  async (t) => {
    const [redis, cluster] = await connected(t, { replicas: 1 }, { readFrom: "replica" });
    const [removed] = cluster.replicas;
    const key = cluster.keyOn(0);
    await redis.set(key, "x");
    await redis.wait(1, 10_000);
    const gets = async (): Promise<number> =>
      Number(/cmdstat_get:calls=(\d+)/.exec(await removed!.admin.info("commandstats"))?.[1] ?? 0);
    await eventually(async () => {
      await redis.get(key);
      return (await gets()) > 0;
    });
    const id = String(await removed!.admin.cluster("MYID"));
    for (const node of cluster.nodes) if (node !== removed) await node.admin.cluster("FORGET", id);
    await removed!.admin.cluster("RESET", "SOFT");
    const isLeft = async (): Promise<boolean> => {
      assert.equal(await redis.get(key), "x");
      return (await removed!.clients()).length === 0;
    };
    await eventually(isLeft, 20_000, "nobody is connected to it");
  },
);

test("nodes that were all replaced behind one endpoint no longer count in the breaker", LIMIT, async (t) => {
  const [before, after] = await Promise.all([Cluster.start(), Cluster.start()]);
  const endpoint = await startProxy(before.masters[0]!.port);
  const manager = manage<typeof Tasks>(t, before.masters[0]!, {
    tasks: fixture("topology-tasks"),
    redis: { port: undefined, clusterNodes: [{ host: "127.0.0.1", port: endpoint.port }], commandTimeoutMs: 1_000 },
  });
  for (const cluster of [before, after]) cluster.watch(t);
  await manager.ready();
  const keys = [0, 1, 2].map((shard) => after.keyOn(shard));
  for (const key of keys) await Promise.all([manager.run("incr", key), manager.run("incrDedicated", key)]);
  endpoint.down();
  endpoint.reset();
  await Promise.all(before.masters.map((node) => node.kill()));
  const lost = Promise.allSettled(keys.map((key) => manager.run("incr", key)));
  await eventually(() => manager.stats().breaker.state !== "closed", 20_000, "they are away");
  endpoint.targetPort = after.masters[0]!.port;
  await endpoint.up();
  for (const key of keys) await eventually(() => manager.run("incr", key), 30_000, "the new ones serve");
  await eventually(() => manager.stats().breaker.state === "closed", 30_000, "the breaker is closed");
  await lost;
  await manager.shutdown();
  endpoint.close();
  await Promise.all(before.masters.map((node) => node.start()));
});

test(
  "a Cluster whose addresses cannot be reached rejects ready() with the addresses and the reason",
  LIMIT,
  async (t) => {
    const cluster = await Cluster.start();
    const hidden = await freePort();
    for (const { admin } of cluster.masters) {
      await admin.config("SET", "cluster-announce-ip", "127.0.0.1");
      await admin.config("SET", "cluster-announce-port", hidden);
    }
    const seen = async (): Promise<boolean> => {
      const told = await Promise.all(cluster.masters.map(({ admin }) => admin.call("CLUSTER", "SLOTS")));
      return told.every((rows) => (rows as [number, number, [string, number]][]).every((row) => row[2][1] === hidden));
    };
    await eventually(seen, 30_000, "every node tells it");
    const manager = manage<typeof Tasks>(t, cluster.masters[0]!, {
      tasks: fixture("topology-tasks"),
      redis: cluster.redis,
      retry: { deadlineMs: 1_500 },
    });
    cluster.watch(t);
    const failure = await rejection(manager.ready());
    assert.ok(code("CONNECT_FAILED")(failure), String(failure));
    assert.match(String(failure?.message), new RegExp(`127\\.0\\.0\\.1:${hidden}.*ECONNREFUSED`));
    assert.match(causes(failure), /ECONNREFUSED/);
  },
);

test(
  "a command that waits in vain for a node says why, and each log line about the node has its address",
  LIMIT,
  async (t) => {
    const lines: (readonly [string, Record<string, unknown>])[] = [];
    const write = (message: string, fields = {}): void => void lines.push([message, fields]);
    const logger: Logger = { debug: write, info: write, warn: write, error: write };
    const cluster = await Cluster.start();
    const client = await connect({ env: {}, logger, redis: { ...cluster.redis, commandTimeoutMs: 1_500 } });
    cluster.watch(t);
    await cluster.allowPartial();
    const [dead] = cluster.masters;
    await dead!.kill();
    let failure: unknown;
    await eventually(async () => {
      failure = await rejection(client.get(cluster.keyOn(0)));
      return code("NOT_SENT")(failure);
    }, 20_000);
    assert.match(causes(failure), /ECONNREFUSED|is away/);
    await dead!.start();
    await disconnect(client);
    const away = lines.find(([message]) => message === "no connection to a node of the Cluster");
    assert.equal(away?.[1]["address"], `127.0.0.1:${dead!.port}`);
    // A connection that the kernel has accepted for a process that dies is closed without an answer.
    assert.match(String(away?.[1]["code"]), /^(ECONNREFUSED|REDTHREAD_MAXCLIENTS_SUSPECTED)$/);
    const ofNodes = lines.filter(([message]) => message.startsWith("Redis: "));
    assert.ok(ofNodes.length > 0);
    for (const [message, { address }] of ofNodes) assert.match(String(address), /^127\.0\.0\.1:\d+$/, message);
  },
);

test("a client that is closed while it connects has not failed", LIMIT, async (t) => {
  const lines: string[] = [];
  const write = (message: string): void => void lines.push(message);
  const logger: Logger = { debug: write, info: write, warn: write, error: write };
  const cluster = await Cluster.start();
  const client = await connect({ env: {}, logger, redis: { ...cluster.redis, commandTimeoutMs: 60_000 } });
  cluster.watch(t);
  const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
  for (const key of keys) await client.incr(key);
  await cluster.allowPartial();
  await cluster.masters[0]!.kill();
  const waiting = rejection(client.get(keys[0]!));
  await eventually(() => lines.some((line) => line.endsWith(" retrying")), 20_000, "it connects again");
  await disconnect(client, { closeMs: 500 });
  await waiting;
  await cluster.masters[0]!.start();
  assert.deepEqual(
    lines.filter((line) => line.endsWith(" failed")),
    [],
  );
});

/** The messages of all causes of an error. */
function causes(error: unknown): string {
  const { cause } = error as { cause?: Error & { code?: string } };
  return cause === undefined ? "" : `${cause.message} ${cause.code ?? ""} ${causes(cause)}`;
}
