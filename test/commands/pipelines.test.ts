import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { after, before, beforeEach, test } from "node:test";
import { eventually } from "../support/gate.js";
import { openClient, rejection } from "../support/make-client.js";
import { code } from "../support/manage.js";
import { echoes, isRefused, lose, loseAndReturn, own, type Redis, type Refusal } from "../support/own-client.js";
import { startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// A pipeline goes to its connection as a whole or not at all, and ioredis waits for exactly the commands that were written.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

const listed = async (redis: Redis): Promise<string> => {
  const id = String(await redis.client("ID"));
  return (await server.admin.client("LIST", "ID", id)) as string;
};

for (const when of ["when it is back", "while it is away"] as const) {
  test(`a pipeline that belongs to a lost transaction is refused as a whole, ${when}`, async (t) => {
    const redis = await own(t, server);
    await redis.set("z", "zed");
    await redis.watch("k");
    await (when === "while it is away" ? lose(redis) : loseAndReturn(redis));
    const pipeline = redis.pipeline([["multi"], ["incr", "n"]]);
    void pipeline.exec(); // this EXEC ends the transaction
    const replies = await pipeline.get("z").exec();
    assert.deepEqual(
      replies!.map(([error]) => (error as Refusal | null)?.code),
      Array.from({ length: 4 }, () => "REDTHREAD_NOT_SENT"),
    );
    assert.equal(await redis.get("z"), "zed");
    assert.equal(await redis.exists("n"), 0);
    await echoes(redis);
  });
}

test("a pipeline that begins with a WAIT for lost writes is refused as a whole", async (t) => {
  const redis = await own(t, server);
  await redis.set("k", 1);
  await loseAndReturn(redis);
  const replies = await redis.pipeline().wait(0, 10).get("k").exec();
  assert.deepEqual(
    replies!.map(([error]) => (error as Refusal | null)?.code),
    ["REDTHREAD_NOT_SENT", "REDTHREAD_NOT_SENT"],
  );
  await echoes(redis);
});

test("a shared client refuses a MULTI that its pipeline does not end, however it is written", async (t) => {
  const { redis } = await openClient(t, server);
  const set = ["set", "k", "v"];
  const unbalanced = [
    [["call", "MULTI"], set],
    [["call", "Multi"], set, ["call", "EXEC"], ["call", "multi"], set],
    [["multi"], ["call", "MULTI"], set, ["exec"]],
  ];
  for (const commands of unbalanced) await assert.rejects(redis.pipeline(commands).exec(), code("NEEDS_DEDICATED"));
  assert.equal(await redis.get("k"), null);
  const balanced = redis.pipeline([["call", "MULTI"], set, ["call", "EXEC"], ["multi"], set, ["exec"]]);
  assert.deepEqual(
    (await balanced.exec())!.map(([, reply]) => String(reply)),
    ["OK", "QUEUED", "OK", "OK", "QUEUED", "OK"],
  );
  await echoes(redis);
});

test("a rejected EXEC ends its transaction, for all users of a shared client", async (t) => {
  await server.admin.call("ACL", "SETUSER", "bound", "on", ">pw", "~*", "&*", "+@all", "-exec");
  const { redis } = await openClient(t, server, { redis: { username: "bound", password: "pw" } });
  await assert.rejects(redis.multi().set("k", 1).exec(), /EXECABORT.*NOPERM/);
  await echoes(redis);
  assert.equal(await redis.get("k"), null);
});

test("arguments without a text are refused, alone and in a pipeline, and harm no other command", async (t) => {
  const { redis } = await openClient(t, server);
  const textless = {
    toString() {
      throw new RangeError("no text");
    },
  };
  await assert.rejects(redis.call("toString", "x"), isRefused("tostring"));
  await assert.rejects(redis.call("__proto__", "x"), TypeError);
  await assert.rejects(redis.set("k", textless as never), RangeError);
  await assert.rejects(
    redis
      .pipeline()
      .set("a", 1)
      .set("k", textless as never)
      .exec(),
    isRefused("set"),
  );
  assert.equal(await redis.exists("a", "k"), 0);
  await assert.rejects(redis.pipeline([["incr", "n"], ["exec"]]).exec(), code("NEEDS_DEDICATED"));
  assert.equal(await redis.exists("n"), 0);
  await echoes(redis);
});

test("a command that could not be written changes nothing, and says so", async (t) => {
  const redis = await own(t, server);
  const tooLong = "x".repeat(2 ** 28 - 1);
  await redis.multi({ pipeline: false });
  await assert.rejects(redis.mset("a", tooLong, "b", tooLong), code("NOT_SENT"));
  await redis.select(3);
  assert.deepEqual(await redis.exec(), [[null, "OK"]]);
  const watching = assert.rejects(redis.watch("w", tooLong, tooLong), code("NOT_SENT"));
  await redis.select(4);
  await watching;
  await loseAndReturn(redis);
  assert.match(await listed(redis), / db=4 /);
});

test("if a listener throws, a command that was sent still gets its reply", async (t) => {
  const redis = await own(t, server);
  const thrown = new Promise((resolve) => process.setUncaughtExceptionCaptureCallback(resolve));
  t.after(() => process.setUncaughtExceptionCaptureCallback(null));
  redis.once("select", () => {
    throw new Error("of the listener");
  });
  assert.equal(await redis.select(3), "OK");
  assert.match(String(await thrown), /of the listener/);
  await loseAndReturn(redis);
  assert.match(await listed(redis), / db=3 /);
});

test("very many held commands settle as few do", async (t) => {
  await using proxy = await startProxy(server.port);
  const redis = { commandTimeoutMs: 5_000, resend: "readonly" as const };
  const client = await openClient(t, server, { port: proxy.port, redis });
  proxy.blackhole(true);
  const reads = Array.from({ length: 150_000 }, () => rejection(client.redis.get("k")));
  await new Promise((resolve) => setImmediate(resolve)); // now they have been written
  proxy.down();
  await lose(client.redis); // now they are held again
  const pipeline = client.redis.pipeline();
  for (let i = 0; i < 150_000; i++) pipeline.set("k", i);
  const [piped, read] = await Promise.all([pipeline.exec(), Promise.all(reads)]);
  assert.deepEqual(new Set(piped!.map(([error]) => (error as Refusal).code)), new Set(["REDTHREAD_NOT_SENT"]));
  assert.deepEqual(new Set(read.map((error) => (error as Refusal).code)), new Set(["REDTHREAD_REPLY_LOST"]));
  proxy.blackhole(false);
  await proxy.up();
  await echoes(client.redis);
});

test("a pipeline that a tracer runs while another starts is not mixed into it", async (t) => {
  const redis = await own(t, server);
  let inner: Promise<unknown> | undefined;
  const listener = (): void => {
    inner ??= redis.pipeline().echo("inner").exec();
  };
  subscribe("tracing:ioredis:batch:start", listener);
  t.after(() => unsubscribe("tracing:ioredis:batch:start", listener));
  assert.deepEqual(await redis.multi().echo("outer").exec(), [[null, "outer"]]);
  assert.deepEqual(await inner, [[null, "inner"]]);
});

test("a command that a tracer sends in the middle of a pipeline comes after it", async (t) => {
  const redis = await own(t, server);
  let nested: Promise<unknown> | undefined;
  const listener = (): void => {
    nested ??= redis.echo("nested");
  };
  subscribe("tracing:ioredis:command:start", listener);
  t.after(() => unsubscribe("tracing:ioredis:command:start", listener));
  assert.deepEqual(await redis.pipeline().echo("a").echo("b").exec(), [
    [null, "a"],
    [null, "b"],
  ]);
  assert.equal(await nested, "nested");
  await echoes(redis);
});

/** Wrong uses of internals, after which ioredis waits for other commands than were written. */
const APART: Record<string, (redis: Redis) => void> = {
  "bytes of somebody else": (redis) => void redis.stream.write("*1\r\n$4\r\nPING\r\n"),
  "a write that does not happen": (redis) => {
    const { stream } = redis;
    const write = stream.write.bind(stream);
    stream.write = () => true;
    void redis.get("never written").catch(() => {});
    stream.write = write;
  },
};

for (const [what, partFrom] of Object.entries(APART)) {
  test(`${what}: the connection is ended, and no caller gets another's reply`, async (t) => {
    const redis = await own(t, server);
    const popping = rejection(redis.blpop("q", 0));
    await eventually(async () => String(await server.admin.client("LIST")).includes("cmd=blpop"));
    const first = rejection(redis.echo("before"));
    partFrom(redis);
    const behind = redis.echo("behind");
    const failed = (await Promise.all([popping, first])) as Refusal[];
    assert.deepEqual(
      failed.map((error) => [error.code, error.outcome]),
      [
        ["REDTHREAD_REPLY_LOST", "unknown"],
        ["REDTHREAD_NOT_SENT", "not-sent"],
      ],
    );
    const late = await rejection(behind);
    if (late) assert.ok(code("NOT_SENT")(late));
    else assert.equal(await behind, "behind");
    await echoes(redis);
  });
}

for (const [what, partFrom] of Object.entries(APART)) {
  test(`${what}, and nothing behind it: the connection is ended at once`, async (t) => {
    const redis = await own(t, server);
    const popping = rejection(redis.blpop("q", 0));
    await eventually(async () => String(await server.admin.client("LIST")).includes("cmd=blpop"));
    partFrom(redis);
    assert.ok(code("REPLY_LOST")(await popping));
    await echoes(redis);
  });
}

test("a reply that nobody waits for ends the connection", async (t) => {
  const redis = await own(t, server);
  const id = String(await redis.client("ID"));
  void redis.echo("forgotten").catch(() => {});
  (redis as unknown as { commandQueue: { shift(): unknown } }).commandQueue.shift();
  await eventually(async () => (await server.clients()).every((client) => client.id !== id));
  await echoes(redis);
});
