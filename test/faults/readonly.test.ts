import assert from "node:assert/strict";
import { test } from "node:test";
import { connRetry } from "../../src/core/retry.js";
import { eventually } from "../support/gate.js";
import { openClient, rejection, serverPerTest } from "../support/make-client.js";
import { startProxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";

/** A replica whose master does not exist: it refuses writes and answers reads. */
async function demote(server: RedisServer): Promise<void> {
  await server.admin.call("REPLICAOF", "127.0.0.1", "1");
}

async function promote(server: RedisServer): Promise<void> {
  await server.admin.call("REPLICAOF", "NO", "ONE");
}

const start = serverPerTest();

async function startServer(): Promise<RedisServer> {
  const server = await start();
  await server.admin.set("k", "v");
  return server;
}

test("a write to a demoted master rejects with READONLY; pending commands are answered, then the connection is replaced", async (t) => {
  const server = await startServer();
  const client = await openClient(t, server);
  const id = await client.redis.client("ID");
  await demote(server);
  const write = rejection(client.redis.set("k", "w"));
  const reads = Promise.all(Array.from({ length: 200 }, () => client.redis.get("k")));
  const pipeline = client.redis.pipeline().set("k", "w").get("k").exec();
  assert.match((await write)!.message, /^READONLY /);
  const meanwhile = client.redis.get("k"); // held, because the connection is about to be replaced
  assert.deepEqual(new Set(await reads), new Set(["v"]));
  assert.deepEqual(
    (await pipeline)!.map(([error, reply]) => error?.message.split(" ")[0] ?? reply),
    ["READONLY", "v"],
  );
  assert.equal(await meanwhile, "v");
  assert.ok((await client.redis.client("ID")) > id);
  await promote(server);
  assert.equal(await client.redis.set("k", "w"), "OK");
});

test("a transaction on a demoted master is refused as a whole, and may be repeated: it then runs at the new master", async (t) => {
  const [old, next] = [await startServer(), await startServer()];
  const proxy = await startProxy(old.port);
  t.after(() => proxy.close());
  const client = await openClient(t, old, { port: proxy.port });
  await demote(old);
  proxy.targetPort = next.port;
  let calls = 0;
  const transaction = connRetry("Redis", "counting", { baseDelayMs: 5, maxDelayMs: 20 })(async () => {
    calls++;
    return client.redis.multi().set("moved", "here").incr("count").exec();
  });
  assert.deepEqual(await transaction(), [
    [null, "OK"],
    [null, 1],
  ]);
  assert.ok(calls > 1);
  assert.equal(await next.admin.get("count"), "1");
  assert.equal(await old.admin.get("moved"), null);
  await client.close(1_000);
  await next.waitForClients((clients) => clients.length === 0);
});

test("every thread's and every pool's connection ends at the new master, each by its own first refused write", async (t) => {
  const [old, next] = [await startServer(), await startServer()];
  const proxy = await startProxy(old.port);
  t.after(() => proxy.close());
  const clients = await Promise.all(
    Array.from({ length: 6 }, (_, i) => openClient(t, old, { port: proxy.port, role: i < 3 ? "thread" : "dedicated" })),
  );
  await demote(old);
  proxy.targetPort = next.port;
  const write = connRetry("Redis", "writing", { baseDelayMs: 5, maxDelayMs: 20 });
  await Promise.all(clients.map((client, i) => write(() => client.redis.set(`from:${i}`, "x"))()));
  assert.equal(await next.admin.call("EXISTS", ...clients.map((_, i) => `from:${i}`)), clients.length);
  await Promise.all(clients.map((client) => client.close(1_000)));
  await next.waitForClients((listed) => listed.length === 0);
});

test("a caller that keeps writing to a replica gets READONLY each time, without a storm of reconnects", async (t) => {
  const server = await startServer();
  let reconnects = -1;
  const onState = (state: string): void => void (reconnects += state === "connected" ? 1 : 0);
  const client = await openClient(t, server, { onState });
  await demote(server);
  const startedAt = performance.now();
  for (let i = 0; i < 1_000; i++) assert.match((await rejection(client.redis.set("k", i)))!.message, /^READONLY /);
  await eventually(() => client.state === "connected" && reconnects > 0);
  const seconds = (performance.now() - startedAt) / 1_000;
  t.diagnostic(`${reconnects} reconnects for 1000 refused writes in ${seconds.toFixed(2)} s`);
  assert.ok(reconnects <= 1 + seconds, `${reconnects} in ${seconds} s`);
});

test("a blocking read without a timeout is not cut off because a write beside it was refused", async (t) => {
  const server = await startServer();
  const client = await openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 200 } });
  const id = Number(await client.redis.client("ID"));
  await demote(server);
  const write = rejection(client.redis.set("k", "w"));
  const blocked = client.redis.xread("BLOCK", 0, "STREAMS", "s", "$");
  assert.match((await write)!.message, /^READONLY /);
  // Held while the connection might be replaced, written once it stays: behind the XREAD, where it waits in vain.
  assert.equal(((await rejection(client.redis.get("k"))) as { code?: string }).code, "REDTHREAD_COMMAND_TIMEOUT");
  await promote(server);
  await server.admin.xadd("s", "*", "field", "value");
  assert.equal((await blocked)![0]![0], "s");
  assert.equal(Number(await client.redis.client("ID")), id);
});
