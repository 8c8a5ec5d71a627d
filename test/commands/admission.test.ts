import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { openClient } from "../support/make-client.js";
import { code } from "../support/manage.js";
import { echoes, isRefused, own } from "../support/own-client.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// A command that no client may run is refused by name, and a user without the right to end a connection is told so.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

test("disconnect() of a shared client is an error for its caller, and for nobody else", async (t) => {
  const { redis } = await openClient(t, server);
  const pending = redis.echo("still here");
  assert.throws(() => redis.disconnect(), code("NEEDS_DEDICATED"));
  assert.throws(() => redis.disconnect(true), code("NEEDS_DEDICATED"));
  assert.throws(() => redis.end(), code("NEEDS_DEDICATED"));
  await assert.rejects(redis.call("QUIT"), code("NEEDS_DEDICATED"));
  assert.equal(await pending, "still here");
  await echoes(redis);
});

test("disconnect(true) connects an owned client anew", async (t) => {
  const redis = await own(t, server);
  const id = await redis.client("ID");
  redis.disconnect(true);
  assert.notEqual(await redis.client("ID"), id);
});

test("QUIT in any spelling ends an owned client for good", async (t) => {
  const redis = await own(t, server);
  assert.equal(await redis.call("Quit"), "OK");
  assert.deepEqual(await server.clients(), []);
  await assert.rejects(redis.get("k"), code("NOT_SENT"));
});

const NEVER = [
  ["client", "REPLY", "SKIP"],
  ["client", "reply", "OFF"],
  ["script", "DEBUG", "YES"],
  ["reset"],
  ["hello", "2"],
  ["auth", "default", "pw"],
  ["sync"],
  ["psync", "?", "-1"],
  ["replconf", "ack", "0"],
] as const;

for (const role of ["thread", "dedicated", "owned"] as const) {
  test(`a command that would mix up replies is refused by name, on a ${role} client`, async (t) => {
    const { redis } = await openClient(t, server, { role });
    for (const [name, ...args] of NEVER) {
      await assert.rejects(redis.call(name.toUpperCase(), ...args), isRefused(name), name);
      await assert.rejects(
        redis
          .pipeline([
            ["echo", "a"],
            ["call", name, ...args],
          ])
          .exec(),
        isRefused(name),
        name,
      );
    }
    assert.ok(await redis.hello());
    await echoes(redis);
  });
}

test("in a transaction a command is refused if its answers come between the replies to other commands", async (t) => {
  const redis = await own(t, server);
  await redis.multi({ pipeline: false });
  await assert.rejects(redis.subscribe("c"), isRefused("subscribe"));
  await assert.rejects(redis.monitor(), isRefused("monitor"));
  await redis.echo("in it");
  await assert.rejects(redis.pipeline().call("EXEC").exec(), isRefused("exec"));
  assert.deepEqual(await redis.exec(), [[null, "in it"]]);
  await assert.rejects(redis.multi().subscribe("c").exec(), isRefused("subscribe"));
  await assert.rejects(redis.pipeline().call("MONITOR").echo("x").exec(), isRefused("monitor"));
  await echoes(redis);
});

test("a shared client may send commands that are about other connections", async (t) => {
  const { redis } = await openClient(t, server, { redis: { resend: "readonly" } });
  await redis.client("UNBLOCK", 1);
  await redis.set("k", "kept");
  const reading = redis.get("k");
  await new Promise((resolve) => setImmediate(resolve));
  redis.stream.destroy();
  assert.equal(await reading, "kept");
});
