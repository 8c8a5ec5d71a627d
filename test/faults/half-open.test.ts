import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { openClient, rejection } from "../support/make-client.js";
import { code, fixture, manage } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

test("an idle connection whose peer vanished silently is found by the heartbeat and replaced", async (t) => {
  const proxy = await startProxy(server.port);
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("tasks"),
    threads: { count: 1 },
    redis: { port: proxy.port, heartbeatMs: 100, commandTimeoutMs: 100 },
  });
  t.after(() => proxy.close());
  await manager.ready();
  await manager.run("incr", "n");
  proxy.blackhole(true);
  // No command is sent: both clients find out by themselves.
  await eventually(() => {
    const { primary, connections } = manager.stats();
    return primary.state === "connecting" && connections.open === 0;
  });
  proxy.blackhole(false);
  await eventually(() => manager.stats().connections.open === 2);
  assert.equal(await manager.run("incr", "n"), 2);
});

test("a connection on which the library itself waits for a reply, which has no deadline, is found and replaced too", async (t) => {
  const proxy = await startProxy(server.port);
  t.after(() => proxy.close());
  const client = await openClient(t, server, { port: proxy.port, redis: { heartbeatMs: 100, commandTimeoutMs: 100 } });
  proxy.blackhole(true);
  const asked = rejection(client.redis.own("cluster", "slots"));
  await eventually(() => client.state === "connecting", 10_000, "it is replaced");
  await asked;
  proxy.blackhole(false);
  await eventually(() => client.isAlive(), 10_000);
});

test("a command that times out starts the probe at once, and the frozen connection is replaced", async (t) => {
  const proxy = await startProxy(server.port);
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("tasks"),
    redis: { port: proxy.port, heartbeatMs: 3_600_000, commandTimeoutMs: 200 },
  });
  t.after(() => proxy.close());
  const redis = await manager.getRedis();
  proxy.blackhole(true);
  await assert.rejects(redis.incr("m"), code("COMMAND_TIMEOUT"));
  await eventually(() => manager.stats().primary.state === "connecting");
  proxy.blackhole(false);
  await eventually(() => manager.stats().primary.state === "connected");
  // The INCR that the black hole held back may have run or not. The handle works, and no late reply goes to another command.
  assert.equal(await redis.echo("mine"), "mine");
});

test("a healthy connection that is merely slow is not replaced", async (t) => {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("tasks"),
    redis: { heartbeatMs: 50, commandTimeoutMs: 5_000 },
  });
  const redis = await manager.getRedis();
  const { id } = (await server.clients()).find(({ name }) => name.endsWith(":primary"))!;
  await server.admin.client("PAUSE", 300, "ALL");
  assert.equal(await redis.echo("slow"), "slow");
  assert.deepEqual(
    (await server.clients()).filter(({ name }) => name.endsWith(":primary")).map((client) => client.id),
    [id],
  );
});
