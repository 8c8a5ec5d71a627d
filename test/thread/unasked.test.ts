import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, beforeEach, test } from "node:test";
import { eventually } from "../support/gate.js";
import { echoes, isRefused, loseAndReturn, own } from "../support/own-client.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// Messages that the server sends without a request: subscriptions and MONITOR.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

test("a client that monitors goes on after a reconnect, and refuses other commands by name", async (t) => {
  const redis = await own(t, server);
  const monitor = await redis.monitor();
  const lines: string[] = [];
  monitor.on("monitor", (_time: string, args: string[]) => void lines.push(args.join(" ")));
  await assert.rejects(redis.get("k"), isRefused("get"));
  await assert.rejects(redis.pipeline().get("k").exec(), isRefused("get"));
  await loseAndReturn(redis);
  await eventually(async () => (await server.admin.echo("once more")) && lines.includes("echo once more"));
  await assert.rejects(redis.get("k"), isRefused("get"));
});

test("a client that monitors has its subscriptions back as well", async (t) => {
  const redis = await own(t, server);
  await redis.subscribe("a");
  await redis.monitor();
  await loseAndReturn(redis);
  await eventually(async () => / flags=\w*O\w* .* sub=1 /.test(String(await server.admin.client("LIST"))));
});

test("a client whose MONITOR is refused after a reconnect says so, and serves again", async (t) => {
  await server.admin.call("ACL", "SETUSER", "watcher", "on", ">pw", "~*", "&*", "+@all");
  const redis = await own(t, server, { redis: { username: "watcher", password: "pw" } });
  await redis.monitor();
  await server.admin.call("ACL", "SETUSER", "watcher", "-monitor");
  const told = once(redis, "error");
  await loseAndReturn(redis);
  assert.match(String((await told)[0]), /NOPERM/);
  await echoes(redis);
});

for (const protocol of [2, 3] as const) {
  test(`every subscription command settles, with RESP${protocol}`, async (t) => {
    const redis = await own(t, server, { redis: { ioredis: { protocol } } });
    await redis.call("SUBSCRIBE", "a", "b");
    await redis.psubscribe("p*");
    assert.equal(await redis.call("Unsubscribe"), 1);
    assert.match((await server.admin.client("LIST")) as string, /sub=0 psub=1/);
    assert.equal(await redis.unsubscribe(), 1);
    void redis.subscribe("c");
    assert.equal(await redis.unsubscribe(), 1);
    assert.equal(await redis.punsubscribe(), 0);
    assert.equal(await redis.punsubscribe(), 0);
    await echoes(redis);
    await redis.subscribe("d", Buffer.from([0xff, 0]));
    await loseAndReturn(redis);
    await eventually(async () => String(await server.admin.client("LIST")).includes("sub=2 psub=0"));
    await redis.unsubscribe();
    await echoes(redis);
  });
}

test("a client whose subscriptions are refused after a reconnect says so", async (t) => {
  await server.admin.call("ACL", "SETUSER", "hearing", "on", ">pw", "~*", "&*", "+@all");
  const redis = await own(t, server, { redis: { username: "hearing", password: "pw" } });
  await redis.subscribe("a");
  await server.admin.call("ACL", "SETUSER", "hearing", "-subscribe");
  const told = once(redis, "error");
  await loseAndReturn(redis);
  assert.match(String((await told)[0]), /NOPERM/);
  await echoes(redis);
});

for (const protocol of [2, 3] as const) {
  test(`the end of shard channels does not end other subscriptions, with RESP${protocol}`, async (t) => {
    const redis = await own(t, server, { redis: { ioredis: { protocol } } });
    const heard: string[] = [];
    redis.on("message", (_channel: string, message: string) => void heard.push(message));
    redis.on("smessage", (_channel: string, message: string) => void heard.push(message));
    await redis.subscribe("a");
    assert.equal(await redis.sunsubscribe("x"), 0);
    await server.admin.publish("a", "one");
    await redis.ssubscribe("s");
    await redis.unsubscribe();
    await server.admin.spublish("s", "two");
    await eventually(() => heard.length === 2);
    assert.deepEqual(heard, ["one", "two"]);
    await loseAndReturn(redis);
    await eventually(async () => String(await server.admin.client("LIST")).includes("sub=0 psub=0 ssub=1"));
    await redis.sunsubscribe();
    await echoes(redis);
  });
}

test("with RESP2 a subscribed client refuses other commands by name", async (t) => {
  const redis = await own(t, server, { redis: { ioredis: { protocol: 2 } } });
  await redis.subscribe("a");
  await assert.rejects(redis.get("k"), isRefused("get"));
  await assert.rejects(redis.pipeline([["ping"], ["get", "k"]]).exec(), isRefused("get"));
  await redis.ping();
  await redis.unsubscribe("a");
  await echoes(redis);
});

test("after MONITOR nothing else is sent until the server has refused it", async (t) => {
  await server.admin.call("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-monitor");
  const redis = await own(t, server, { redis: { username: "blind", password: "pw" } });
  const monitoring = assert.rejects(redis.monitor(), /NOPERM/);
  await assert.rejects(redis.get("k"), isRefused("get"));
  await assert.rejects(redis.multi().echo("x").exec(), isRefused("multi"));
  await monitoring;
  await echoes(redis);
});
