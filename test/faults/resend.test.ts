import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { Client } from "../../src/connection/client.js";
import type { ClientRole } from "../../src/core/names.js";
import type { RedisOptions } from "../../src/config/options.js";
import { eventually } from "../support/gate.js";
import { makeClient } from "../support/make-client.js";
import { code } from "../support/manage.js";
import { type Proxy, startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(async () => {
  await server.admin.flushall();
  await server.admin.config("RESETSTAT");
});
after(() => server.stop());

interface Setup {
  readonly client: Client;
  readonly proxy: Proxy;
}

async function proxied(t: TestContext, redis: Partial<RedisOptions>, role: ClientRole = "thread"): Promise<Setup> {
  const proxy = await startProxy(server.port);
  const client = makeClient(t, server, { port: proxy.port, redis, role });
  t.after(() => proxy.close());
  await client.connect();
  return { client, proxy };
}

/** How often the server has run a command. */
async function runs(command: string): Promise<number> {
  const stats = await server.admin.info("commandstats");
  return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(stats)?.[1] ?? 0);
}

test("a read whose reply was cut off comes back with its value; a write beside it is REPLY_LOST and counted once", async (t) => {
  const { client, proxy } = await proxied(t, { resend: "readonly" });
  await server.admin.set("text", "x".repeat(1_000));
  proxy.cutAfterReplyBytes(100); // in the middle of the first reply
  const read = client.redis.get("text");
  const upperCase = client.redis.call("STRLEN", "text");
  const write = assert.rejects(client.redis.incr("n"), code("REPLY_LOST"));
  assert.equal(await read, "x".repeat(1_000));
  assert.equal(await upperCase, 1_000);
  await write;
  assert.equal(await server.admin.get("n"), "1");
  assert.equal(await runs("incr"), 1);
  assert.equal(await runs("strlen"), 2);
});

test("by default nothing is sent twice, be it a read", async (t) => {
  const { client, proxy } = await proxied(t, {});
  await server.admin.set("text", "x".repeat(1_000));
  await server.admin.config("RESETSTAT");
  proxy.cutAfterReplyBytes(100);
  await assert.rejects(client.redis.get("text"), code("REPLY_LOST"));
  assert.equal(await client.redis.get("other"), null);
  assert.equal(await runs("get"), 2);
});

test("a read that is cut off again is REPLY_LOST: it is never sent a third time", async (t) => {
  const { client, proxy } = await proxied(t, { resend: "readonly" });
  await server.admin.set("text", "x".repeat(100_000));
  proxy.cutAfterReplyBytes(1_000);
  client.redis.once("close", () => proxy.cutAfterReplyBytes(10_000)); // more than a handshake, less than the reply
  await assert.rejects(client.redis.getrange("text", 0, -1), code("REPLY_LOST"));
  assert.equal(await client.redis.strlen("text"), 100_000);
  assert.equal(await runs("getrange"), 2);
});

test("a read past its deadline is not sent again, and was sent, so it is REPLY_LOST", async (t) => {
  const { client, proxy } = await proxied(t, { resend: "readonly", commandTimeoutMs: 300 });
  await server.admin.set("text", "x".repeat(1_000));
  proxy.cutAfterReplyBytes(100);
  proxy.down();
  await assert.rejects(client.redis.getrange("text", 0, -1), code("REPLY_LOST"));
  await proxy.up();
  await eventually(() => client.state === "connected");
  assert.equal(await client.redis.strlen("text"), 1_000);
  assert.equal(await runs("getrange"), 1);
});

test("a read that waits for its second chance is REPLY_LOST when its client is closed", async (t) => {
  const { client, proxy } = await proxied(t, { resend: "readonly" });
  await server.admin.set("text", "x".repeat(1_000));
  proxy.cutAfterReplyBytes(100);
  proxy.down();
  const read = assert.rejects(client.redis.get("text"), code("REPLY_LOST"));
  await eventually(() => client.state === "connecting");
  await client.close(100);
  await read;
});

test("a blocking read is not sent again: its time would run twice", async (t) => {
  const { client, proxy } = await proxied(t, { resend: "readonly" }, "dedicated");
  const blocked = assert.rejects(client.redis.xread("BLOCK", 60_000, "STREAMS", "s", "$"), code("REPLY_LOST"));
  await server.waitForClients((clients) => clients.some(({ cmd, flags }) => cmd === "xread" && flags.includes("b")));
  proxy.reset();
  await blocked;
});

test("reads in a pipeline or a transaction are not sent again", async (t) => {
  const { client, proxy } = await proxied(t, { resend: "readonly" });
  await server.admin.set("text", "x".repeat(1_000));
  proxy.cutAfterReplyBytes(100);
  const lost = await client.redis
    .pipeline()
    .getrange("text", 0, -1)
    .incr("n")
    .exec()
    .catch((error: unknown) => error);
  const failures = Array.isArray(lost) ? lost.map(([error]) => error) : [lost];
  assert.ok(failures.some(code("REPLY_LOST")), String(failures));
  await eventually(() => client.isAlive());
  proxy.cutAfterReplyBytes(100);
  await assert.rejects(client.redis.multi().getrange("text", 0, -1).incr("n").exec());
  await eventually(() => client.isAlive());
  assert.equal(await client.redis.get("n"), "2");
  assert.equal(await runs("getrange"), 2);
});

test("a read under WATCH on a dedicated client is not sent again; without one it is", async (t) => {
  const { client, proxy } = await proxied(t, { resend: "readonly" }, "dedicated");
  await server.admin.set("text", "x".repeat(1_000));
  await client.redis.watch("text");
  proxy.cutAfterReplyBytes(100);
  await assert.rejects(client.redis.getrange("text", 0, -1), code("REPLY_LOST"));
  await eventually(() => client.isAlive());
  await assert.rejects(client.redis.unwatch(), code("NOT_SENT")); // the end of the lost transaction
  proxy.cutAfterReplyBytes(100);
  assert.equal((await client.redis.getrange("text", 0, -1)).length, 1_000);
  assert.equal(await runs("getrange"), 3);
});
