import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { Logins } from "../../src/connection/credentials.js";
import type { RedisOptions } from "../../src/config/options.js";
import { eventually } from "../support/gate.js";
import { openClient, rejection } from "../support/make-client.js";
import { code } from "../support/manage.js";
import { echoes, lose, loseAndReturn, own, type Redis, type Refusal } from "../support/own-client.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// Which transaction, database or login a client believes in is what the server says.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

type IoredisOptions = NonNullable<RedisOptions["ioredis"]>;

const listed = async (redis: Redis): Promise<string> => {
  const id = String(await redis.client("ID"));
  return (await server.admin.client("LIST", "ID", id)) as string;
};

test("a transaction that was ended before its loss was noticed does not cost the next one", async (t) => {
  const redis = await own(t, server, { redis: { whenDown: "fail" } });
  await redis.multi({ pipeline: false });
  redis.stream.destroy(); // its close event is still to come
  await assert.rejects(redis.discard(), code("NOT_SENT"));
  await once(redis, "close");
  await redis.connect();
  assert.deepEqual(await redis.multi().echo("next").exec(), [[null, "next"]]);
});

/** An owned client that is logged in as `first`, and a function that makes it log in as `second`. */
async function renewable(t: TestContext, ioredis: IoredisOptions = {}): Promise<{ redis: Redis; renew: () => void }> {
  const logins = new Logins(() => {});
  const come = (version: number, username: string): void => logins.came({ version, username, password: "secret" });
  for (const user of ["first", "second"])
    await server.admin.call("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all");
  come(1, "first");
  const { redis } = await openClient(t, server, { role: "owned", logins, redis: { ioredis } });
  return { redis, renew: () => come(2, "second") };
}

const isPopping = async (): Promise<boolean> => (await server.clients()).some(({ cmd }) => cmd === "blpop");

test("a new login comes before or after a pipeline, never into it", async (t) => {
  const { redis, renew } = await renewable(t);
  const popping = redis.blpop("q", 0);
  await eventually(isPopping);
  renew();
  const piped = popping.then(async () => redis.pipeline().echo("a").echo("b").echo("c").exec());
  await server.admin.rpush("q", "item");
  assert.deepEqual(
    (await piped)!.map(([, reply]) => reply),
    ["a", "b", "c"],
  );
  await echoes(redis);
});

test("a new login that waited for a BLPOP is used as soon as the BLPOP is answered", async (t) => {
  const { redis, renew } = await renewable(t);
  const popping = redis.blpop("q", 0);
  await eventually(isPopping);
  renew();
  await server.admin.rpush("q", "item");
  await popping;
  await eventually(async () => (await server.clients()).some(({ user }) => user === "second"));
});

test("a new login waits until a RESP2 connection is no longer subscribed", async (t) => {
  const { redis, renew } = await renewable(t, { protocol: 2 });
  await redis.subscribe("a");
  renew();
  await redis.unsubscribe();
  await echoes(redis);
  assert.equal(await redis.acl("WHOAMI"), "second");
});

test("the database after a reconnect is the last one that the server confirmed, also in a transaction", async (t) => {
  const redis = await own(t, server);
  await redis.call("Select", "3");
  await assert.rejects(redis.select(99));
  await loseAndReturn(redis);
  assert.match(await listed(redis), / db=3 /);
  await redis.multi().select(5).echo("in 5").exec();
  await assert.rejects(redis.multi().select(6).call("NOSUCH").exec());
  await loseAndReturn(redis);
  assert.match(await listed(redis), / db=5 /);
  await redis.pipeline([["call", "MULTI"], ["select", 7], ["discard"]]).exec();
  await loseAndReturn(redis);
  assert.match(await listed(redis), / db=5 /);
});

test("a client is not ready before it is in its database again", async (t) => {
  await server.admin.call("ACL", "SETUSER", "selecting", "on", ">pw", "~*", "&*", "+@all");
  const redis = await own(t, server, {
    redis: { username: "selecting", password: "pw" },
    retry: { baseDelayMs: 5, maxDelayMs: 20 },
  });
  await redis.select(3);
  await server.admin.call("ACL", "SETUSER", "selecting", "-select");
  const attempts = async (): Promise<number> =>
    Number(/total_connections_received:(\d+)/.exec(await server.admin.info("stats"))![1]);
  const attemptsBefore = await attempts();
  await lose(redis);
  const set = redis.set("k", "in 3");
  await eventually(async () => (await attempts()) > attemptsBefore + 2);
  assert.equal(await server.admin.exists("k"), 0);
  await server.admin.call("ACL", "SETUSER", "selecting", "+select");
  assert.equal(await set, "OK");
  assert.match(await listed(redis), / db=3 /);
  assert.equal(await server.admin.exists("k"), 0);
});

test("a transaction whose MULTI was rejected may have run, and says so", async (t) => {
  await server.admin.call("ACL", "SETUSER", "single", "on", ">pw", "~*", "&*", "+@all", "-multi");
  const redis = await own(t, server, { redis: { username: "single", password: "pw" } });
  const error = (await rejection(redis.multi().set("k", 1).exec())) as Refusal & { previousErrors: Error[] };
  assert.equal(await redis.get("k"), "1");
  assert.equal(error.outcome, "unknown");
  assert.match(String(error.previousErrors[0]), /NOPERM/);
  await assert.rejects(redis.multi({ pipeline: false }), /NOPERM/);
  await loseAndReturn(redis);
  await echoes(redis); // the session has lost nothing with the connection
});

test("a user without the right to DISCARD is still in a transaction", async (t) => {
  await server.admin.call("ACL", "SETUSER", "caught", "on", ">pw", "~*", "&*", "+@all", "-discard");
  const redis = await own(t, server, { redis: { username: "caught", password: "pw" } });
  await redis.multi({ pipeline: false });
  await assert.rejects(redis.discard(), /NOPERM/);
  await loseAndReturn(redis);
  await assert.rejects(redis.get("k"), code("NOT_SENT"));
});

test("a read of a transaction, or behind a SELECT, is not sent again alone", async (t) => {
  const redis = await own(t, server, { redis: { resend: "readonly" } });
  await redis.multi({ pipeline: false });
  const reading = rejection(redis.get("k"));
  const discarding = rejection(redis.discard());
  await new Promise((resolve) => setImmediate(resolve));
  redis.stream.destroy();
  assert.ok(code("REPLY_LOST")(await reading));
  assert.ok(code("REPLY_LOST")(await discarding));
  await redis.connect();
  const selecting = rejection(redis.select(3));
  const behind = rejection(redis.get("k"));
  await new Promise((resolve) => setImmediate(resolve));
  redis.stream.destroy();
  assert.ok(code("REPLY_LOST")(await behind));
  assert.ok(code("REPLY_LOST")(await selecting));
});

test("an EXEC or DISCARD without a MULTI leaves the WATCH where it is, and the next holder does not get it", async (t) => {
  const client = await openClient(t, server, { role: "dedicated" });
  for (const end of ["exec", "discard"] as const) {
    await client.redis.watch("k");
    await assert.rejects(client.redis[end](), /without MULTI/);
    assert.ok(await client.reset());
    await server.admin.set("k", end);
    assert.deepEqual(await client.redis.multi().echo("as new").exec(), [[null, "as new"]]);
  }
});
