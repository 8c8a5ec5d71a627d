import assert from "node:assert/strict";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { Logins } from "../src/common/logins.js";
import type { RedisOptions } from "../src/common/options.js";
import { connect, type ConnectOptions, disconnect, type RedthreadError } from "../src/index.js";
import { eventually } from "./support/gate.js";
import { beginLeakCheck, leakCheck } from "./support/leak-check.js";
import { openClient, rejection } from "./support/make-client.js";
import { code } from "./support/manage.js";
import { startProxy } from "./support/proxy.js";
import { startRedis, type RedisServer } from "./support/redis-server.js";

// One connection never lies: a reply belongs to the command that asked for it, and what a client takes its connection to be
// in, a transaction, a database, a subscription, is what the server says.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

type Redis = Awaited<ReturnType<typeof connect>>;
type IoredisOptions = NonNullable<RedisOptions["ioredis"]>;
type Refusal = RedthreadError & { command?: string; reason?: string };

async function own(t: TestContext, { redis = {}, ...options }: ConnectOptions = {}): Promise<Redis> {
  beginLeakCheck(t);
  const handle = await connect({ env: {}, ...options, redis: { port: server.port, ...redis } });
  t.after(() => disconnect(handle));
  leakCheck(t, server);
  return handle;
}

async function lose(redis: Redis): Promise<void> {
  redis.stream.destroy();
  await once(redis, "close");
}

async function loseAndReturn(redis: Redis): Promise<void> {
  await lose(redis);
  await redis.connect();
}

/** Replies in their order: nobody's is somebody else's. */
async function echoes(redis: Redis): Promise<void> {
  const words = Array.from({ length: 5 }, (_, i) => `word ${i}`);
  assert.deepEqual(await Promise.all(words.map((word) => redis.echo(word))), words);
}

const listed = async (redis: Redis): Promise<string> => {
  const id = String(await redis.client("ID"));
  return (await server.admin.client("LIST", "ID", id)) as string;
};

function isRefused(command: string): (error: unknown) => boolean {
  return (error) => {
    const refusal = error as Refusal;
    assert.ok(code("COMMAND_REFUSED")(error), String(error));
    assert.deepEqual([refusal.outcome, refusal.command], ["refused", command]);
    assert.ok(refusal.reason);
    return true;
  };
}

for (const when of ["when it is back", "while it is away"] as const) {
  test(`a pipeline that belongs to a lost transaction is refused as a whole, ${when}`, async (t) => {
    const redis = await own(t);
    await redis.set("z", "zed");
    await redis.watch("k");
    await (when === "while it is away" ? lose(redis) : loseAndReturn(redis));
    const pipeline = redis.pipeline([["multi"], ["incr", "n"]]);
    void pipeline.exec(); // of the transaction
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

test("a transaction that was ended while its loss was still to be heard of does not cost the next one", async (t) => {
  const redis = await own(t, { redis: { whenDown: "fail" } });
  await redis.multi({ pipeline: false });
  redis.stream.destroy(); // its close event is to come
  await assert.rejects(redis.discard(), code("NOT_SENT"));
  await once(redis, "close");
  await redis.connect();
  assert.deepEqual(await redis.multi().echo("next").exec(), [[null, "next"]]);
});

test("a pipeline that begins with a WAIT for what was lost is refused as a whole", async (t) => {
  const redis = await own(t);
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

test("an EXEC that was refused ends its transaction, for all who share the client", async (t) => {
  await server.admin.call("ACL", "SETUSER", "bound", "on", ">pw", "~*", "&*", "+@all", "-exec");
  const { redis } = await openClient(t, server, { redis: { username: "bound", password: "pw" } });
  await assert.rejects(redis.multi().set("k", 1).exec(), /EXECABORT.*NOPERM/);
  await echoes(redis);
  assert.equal(await redis.get("k"), null);
});

/** A client of one's own that is logged in as `first`, and the way to have it log in as `second`. */
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

const SCRIPTS = { addone: { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" } };
type Scripted = Redis & { addone(key: string, by: number): Promise<number> };
type Piped = ReturnType<Redis["pipeline"]> & { addone(key: string, by: number): Piped };

test("a script that was queued in a transaction which did not run is no script that the server has", async (t) => {
  const redis = (await own(t, { redis: { scripts: SCRIPTS } })) as Scripted;
  await redis.watch("n");
  await server.admin.set("n", 7);
  assert.equal(await (redis.multi() as Piped).addone("n", 1).exec(), null);
  for (let i = 1; i <= 2; i++) {
    assert.deepEqual(await (redis.multi().set("m", 1) as Piped).addone("n", 1).exec(), [
      [null, "OK"],
      [null, 7 + i],
    ]);
  }
  await redis.addone("n", 0);
  await server.admin.script("FLUSH");
  const script = redis.addone("n", 1);
  void redis.multi({ pipeline: false });
  assert.equal(await script, 10);
  await redis.addone("n", 1);
  assert.deepEqual(await redis.exec(), [[null, 11]]);
});

test("scripts run in their place, also when somebody has flushed them", async (t) => {
  const { redis } = await openClient(t, server, { redis: { scripts: SCRIPTS } });
  const scripted = redis as unknown as Scripted;
  assert.equal(await scripted.addone("n", 1), 1);
  await server.admin.script("FLUSH");
  assert.deepEqual(await (redis.multi().set("m", 1) as Piped).addone("n", 1).exec(), [
    [null, "OK"],
    [null, 2],
  ]);
  await server.admin.script("FLUSH");
  const replies = await (redis.pipeline() as Piped).addone("p", 1).set("p", 100).exec();
  assert.deepEqual(replies, [
    [null, 1],
    [null, "OK"],
  ]);
  assert.equal(await redis.get("p"), "100");
  await server.admin.script("FLUSH");
  assert.equal(await scripted.addone("n", 1), 3);
  await server.admin.config("RESETSTAT");
  for (let i = 0; i < 3; i++) await scripted.addone("n", 1);
  const stats = await server.admin.info("commandstats");
  assert.match(stats, /cmdstat_evalsha:calls=3,/);
});

test("disconnect() of a client that others use is an error for who calls it, and for nobody else", async (t) => {
  const { redis } = await openClient(t, server);
  const pending = redis.echo("still here");
  assert.throws(() => redis.disconnect(), code("NEEDS_DEDICATED"));
  assert.throws(() => redis.disconnect(true), code("NEEDS_DEDICATED"));
  assert.throws(() => redis.end(), code("NEEDS_DEDICATED"));
  await assert.rejects(redis.call("QUIT"), code("NEEDS_DEDICATED"));
  assert.equal(await pending, "still here");
  await echoes(redis);
});

test("disconnect(true) of a client of one's own connects it anew", async (t) => {
  const redis = await own(t);
  const id = await redis.client("ID");
  redis.disconnect(true);
  assert.notEqual(await redis.client("ID"), id);
});

test("QUIT by whatever spelling ends a client of one's own for good", async (t) => {
  const redis = await own(t);
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
  test(`what would mix up the replies is refused by name, on a ${role} client`, async (t) => {
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

test("in a transaction nothing is run whose answers come between those of others", async (t) => {
  const redis = await own(t);
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

test("what ioredis cannot make a command of is refused, alone and in a pipeline, and harms nobody", async (t) => {
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

test("a client that monitors goes on after a reconnect, and tells whoever sends something there", async (t) => {
  const redis = await own(t);
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
  const redis = await own(t);
  await redis.subscribe("a");
  await redis.monitor();
  await loseAndReturn(redis);
  await eventually(async () => / flags=\w*O\w* .* sub=1 /.test(String(await server.admin.client("LIST"))));
});

test("a client whose MONITOR is refused after a reconnect says so, and serves again", async (t) => {
  await server.admin.call("ACL", "SETUSER", "watcher", "on", ">pw", "~*", "&*", "+@all");
  const redis = await own(t, { redis: { username: "watcher", password: "pw" } });
  await redis.monitor();
  await server.admin.call("ACL", "SETUSER", "watcher", "-monitor");
  const told = once(redis, "error");
  await loseAndReturn(redis);
  assert.match(String((await told)[0]), /NOPERM/);
  await echoes(redis);
});

for (const protocol of [2, 3] as const) {
  test(`every subscription command settles, with RESP${protocol}`, async (t) => {
    const redis = await own(t, { redis: { ioredis: { protocol } } });
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
  const redis = await own(t, { redis: { username: "hearing", password: "pw" } });
  await redis.subscribe("a");
  await server.admin.call("ACL", "SETUSER", "hearing", "-subscribe");
  const told = once(redis, "error");
  await loseAndReturn(redis);
  assert.match(String((await told)[0]), /NOPERM/);
  await echoes(redis);
});

for (const protocol of [2, 3] as const) {
  test(`shard channels that end are not the end of other subscriptions, with RESP${protocol}`, async (t) => {
    const redis = await own(t, { redis: { ioredis: { protocol } } });
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

test("a new login that waited for a BLPOP is used as soon as that is answered", async (t) => {
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

test("with RESP2 a subscribed client says by name what it does not run", async (t) => {
  const redis = await own(t, { redis: { ioredis: { protocol: 2 } } });
  await redis.subscribe("a");
  await assert.rejects(redis.get("k"), isRefused("get"));
  await assert.rejects(redis.pipeline([["ping"], ["get", "k"]]).exec(), isRefused("get"));
  await redis.ping();
  await redis.unsubscribe("a");
  await echoes(redis);
});

test("the database after a reconnect is the last that the server confirmed, in a transaction too", async (t) => {
  const redis = await own(t);
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
  const redis = await own(t, {
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

test("a transaction whose MULTI was refused may have run, and says so", async (t) => {
  await server.admin.call("ACL", "SETUSER", "single", "on", ">pw", "~*", "&*", "+@all", "-multi");
  const redis = await own(t, { redis: { username: "single", password: "pw" } });
  const error = (await rejection(redis.multi().set("k", 1).exec())) as Refusal & { previousErrors: Error[] };
  assert.equal(await redis.get("k"), "1");
  assert.equal(error.outcome, "unknown");
  assert.match(String(error.previousErrors[0]), /NOPERM/);
  await assert.rejects(redis.multi({ pipeline: false }), /NOPERM/);
  await loseAndReturn(redis);
  await echoes(redis); // nothing was lost with the connection
});

test("whoever may not DISCARD is still in his transaction", async (t) => {
  await server.admin.call("ACL", "SETUSER", "caught", "on", ">pw", "~*", "&*", "+@all", "-discard");
  const redis = await own(t, { redis: { username: "caught", password: "pw" } });
  await redis.multi({ pipeline: false });
  await assert.rejects(redis.discard(), /NOPERM/);
  await loseAndReturn(redis);
  await assert.rejects(redis.get("k"), code("NOT_SENT"));
});

test("a command that could not be written changes nothing, and says so", async (t) => {
  const redis = await own(t);
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

test("a listener that throws does not make a lie of what was sent", async (t) => {
  const redis = await own(t);
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

test("what is aimed at other connections does not count against a shared client", async (t) => {
  const { redis } = await openClient(t, server, { redis: { resend: "readonly" } });
  await redis.client("UNBLOCK", 1);
  await redis.set("k", "kept");
  const reading = redis.get("k");
  await new Promise((resolve) => setImmediate(resolve));
  redis.stream.destroy();
  assert.equal(await reading, "kept");
});

test("a read of a transaction, or behind a SELECT, is not sent again alone", async (t) => {
  const redis = await own(t, { redis: { resend: "readonly" } });
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

test("very many commands that wait for a connection get their verdict as few do", async (t) => {
  await using proxy = await startProxy(server.port);
  const redis = { commandTimeoutMs: 5_000, resend: "readonly" as const };
  const client = await openClient(t, server, { port: proxy.port, redis });
  proxy.blackhole(true);
  const reads = Array.from({ length: 150_000 }, () => rejection(client.redis.get("k")));
  await new Promise((resolve) => setImmediate(resolve)); // they have been written
  proxy.down();
  await lose(client.redis); // and they are held again
  const pipeline = client.redis.pipeline();
  for (let i = 0; i < 150_000; i++) pipeline.set("k", i);
  const [piped, read] = await Promise.all([pipeline.exec(), Promise.all(reads)]);
  assert.deepEqual(new Set(piped!.map(([error]) => (error as Refusal).code)), new Set(["REDTHREAD_NOT_SENT"]));
  assert.deepEqual(new Set(read.map((error) => (error as Refusal).code)), new Set(["REDTHREAD_REPLY_LOST"]));
  proxy.blackhole(false);
  await proxy.up();
  await echoes(client.redis);
});

test("a pipeline that a tracer runs inside of another's start is another", async (t) => {
  const redis = await own(t);
  let inner: Promise<unknown> | undefined;
  const listener = (): void => {
    inner ??= redis.pipeline().echo("inner").exec();
  };
  subscribe("tracing:ioredis:batch:start", listener);
  t.after(() => unsubscribe("tracing:ioredis:batch:start", listener));
  assert.deepEqual(await redis.multi().echo("outer").exec(), [[null, "outer"]]);
  assert.deepEqual(await inner, [[null, "inner"]]);
});

test("what a tracer sends in the middle of a pipeline comes after it", async (t) => {
  const redis = await own(t);
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

test("from the moment MONITOR is sent nothing else is, until it is refused", async (t) => {
  await server.admin.call("ACL", "SETUSER", "blind", "on", ">pw", "~*", "&*", "+@all", "-monitor");
  const redis = await own(t, { redis: { username: "blind", password: "pw" } });
  const monitoring = assert.rejects(redis.monitor(), /NOPERM/);
  await assert.rejects(redis.get("k"), isRefused("get"));
  await assert.rejects(redis.multi().echo("x").exec(), isRefused("multi"));
  await monitoring;
  await echoes(redis);
});

/** Ways in which what ioredis waits for and what was written come apart; all are wrong use of internals. */
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
  test(`${what}: the connection goes, and nobody gets another's reply`, async (t) => {
    const redis = await own(t);
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
  test(`${what}, and nothing behind it: the connection goes at once`, async (t) => {
    const redis = await own(t);
    const popping = rejection(redis.blpop("q", 0));
    await eventually(async () => String(await server.admin.client("LIST")).includes("cmd=blpop"));
    partFrom(redis);
    assert.ok(code("REPLY_LOST")(await popping));
    await echoes(redis);
  });
}

test("a reply that nobody waits for ends the connection", async (t) => {
  const redis = await own(t);
  const id = String(await redis.client("ID"));
  void redis.echo("forgotten").catch(() => {});
  (redis as unknown as { commandQueue: { shift(): unknown } }).commandQueue.shift();
  await eventually(async () => (await server.clients()).every((client) => client.id !== id));
  await echoes(redis);
});
