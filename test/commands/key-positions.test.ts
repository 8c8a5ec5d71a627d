import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { connect, disconnect } from "../../src/index.js";
import { forgetCommands } from "../support/forget-commands.js";
import { eventually } from "../support/gate.js";
import { beginLeakCheck, leakCheck } from "../support/leak-check.js";
import { code } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

forgetCommands("getset", "mset", "append", "object", "zdiff", "zunionstore");

let server: RedisServer;
before(async () => {
  server = await startRedis();
  const rules = ["on", ">pw", "~*", "+@all"];
  await server.admin.acl("SETUSER", "mute", ...rules, "-command");
  await server.admin.acl("SETUSER", "terse", ...rules, "-command|getkeys");
});
beforeEach(async () => {
  await server.admin.flushall();
  await server.admin.config("RESETSTAT");
});
after(() => server.stop());

type Redis = Awaited<ReturnType<typeof connect>>;

const opened: Redis[] = [];

async function open(t: TestContext, redis: NonNullable<Parameters<typeof connect>[0]>["redis"] = {}): Promise<Redis> {
  if (opened.length === 0) {
    beginLeakCheck(t);
    t.after(() => Promise.all(opened.splice(0).map((client) => disconnect(client))));
    leakCheck(t, server);
  }
  const client = await connect({ env: {}, redis: { port: server.port, keyPrefix: "app:", ...redis } });
  opened.push(client);
  return client;
}

/** How often the server was asked about commands. */
async function questions(): Promise<number> {
  const stats = await server.admin.info("commandstats");
  return [...stats.matchAll(/cmdstat_command\|\w+:calls=(\d+)/g)].reduce((sum, [, calls]) => sum + Number(calls), 0);
}

async function keys(): Promise<string[]> {
  return (await server.admin.keys("*")).toSorted();
}

/** The codes that the promises are rejected with. */
async function outcomes(promises: readonly unknown[]): Promise<string[]> {
  const settled = await Promise.allSettled(promises);
  return settled.map((one) =>
    one.status === "rejected" ? String(one.reason.code).replace("REDTHREAD_", "") : "answered",
  );
}

test("commands that ioredis' table does not know get the keyPrefix: alone, in pipelines, in multi(), as bytes", async (t) => {
  const redis = await open(t);
  await redis.call("GETSET", "a", "1");
  await redis.pipeline().call("getset", "b", "1").get("b").exec();
  await redis.multi().call("GETSET", "c", "1").call("MSET", "d", "1", "e", "2").exec();
  await redis.callBuffer("MSET", Buffer.from([0xff]), "1", "f", Buffer.from("2"));
  assert.deepEqual(await keys(), ["app:a", "app:b", "app:c", "app:d", "app:e", "app:f", "app:\ufffd"].toSorted());
  assert.deepEqual(await redis.mget("a", "b", "e", "f"), ["1", "1", "2", "2"]);
  assert.equal(await redis.getBuffer(Buffer.from([0xff])).then(String), "1");
});

test("the server is asked once for each name, and not at all without a keyPrefix", async (t) => {
  const redis = await open(t);
  await Promise.all([redis.call("GETSET", "a", "1"), redis.call("getset", "b", "1"), redis.call("GETSET", "c", "1")]);
  await redis.call("GETSET", "a", "2");
  await redis.pipeline().call("GETSET", "a", "3").exec();
  assert.equal(await questions(), 1);
  await redis.call("APPEND", "a", "4");
  assert.equal(await questions(), 2);
  const plain = await open(t, { keyPrefix: "" });
  await plain.call("OBJECT", "ENCODING", "a");
  await plain.pipeline().call("MSET", "a", "1").exec();
  assert.equal(await questions(), 2);
  assert.equal(await server.admin.get("a"), "1");
});

test("a command stays behind an earlier one about which the server is asked", async (t) => {
  const redis = await open(t);
  const answers = await Promise.all([
    redis.set("k", "a"),
    redis.call("APPEND", "k", "b"),
    redis.get("k"),
    redis.pipeline().append("k", "c").get("k").exec(),
    redis.call("GETSET", "k", "d"),
    redis.multi().get("k").call("APPEND", "k", "e").exec(),
    redis.get("k"),
  ]);
  assert.deepEqual(answers, [
    "OK",
    2,
    "ab",
    [
      [null, 3],
      [null, "abc"],
    ],
    "abc",
    [
      [null, "d"],
      [null, 2],
    ],
    "de",
  ]);
});

test("movable keys are found for each call, also if other arguments read like keys", async (t) => {
  const redis = await open(t);
  await redis.zadd("2", 1, "x", 2, "y");
  await redis.zadd("b", 1, "x");
  assert.deepEqual(await redis.call("ZDIFF", "2", "2", "b"), ["y"]);
  assert.deepEqual(await redis.call("ZDIFF", "2", "2", "2"), []);
  assert.deepEqual(await redis.pipeline().call("ZDIFF", "1", "b").call("ZDIFF", "2", "2", "b").exec(), [
    [null, ["x"]],
    [null, ["y"]],
  ]);
  assert.equal(await redis.call("ZUNIONSTORE", "weights", "2", "2", "b", "WEIGHTS", "2", "1"), 2);
  assert.deepEqual(await keys(), ["app:2", "app:b", "app:weights"]);
});

test("the keys of a subcommand are where the server says it has them", async (t) => {
  const redis = await open(t);
  await redis.set("k", "1");
  assert.equal(await redis.call("OBJECT", "Encoding", "k"), "int");
  assert.ok(Array.isArray(await redis.call("OBJECT", "HELP")));
});

test("a command that the server does not know is answered by the server", async (t) => {
  const redis = await open(t);
  await assert.rejects(redis.call("NOSUCH", "k"), /unknown command/);
  const replies = await redis.pipeline().call("NOSUCH", "k").set("k", "1").exec();
  assert.match(String(replies![0]![0]), /unknown command/);
  assert.deepEqual(replies![1], [null, "OK"]);
});

function refused(error: unknown): boolean {
  const { command, outcome, reason } = error as Record<string, unknown>;
  assert.match(String(reason), /NOPERM/);
  return code("COMMAND_REFUSED")(error) && outcome === "refused" && command === "getset";
}

test("a command whose keys the server does not tell is refused by name before a byte, a pipeline as a whole", async (t) => {
  const mute = await open(t, { username: "mute", password: "pw" });
  await assert.rejects(mute.call("GETSET", "k", "1"), refused);
  const pipeline = mute.pipeline().set("k", "1").call("GETSET", "k", "1");
  await assert.rejects(pipeline.exec(), refused);
  await assert.rejects(mute.multi().set("k", "1").call("GETSET", "k", "1").exec(), refused);
  await assert.rejects(
    new Promise(
      (_, reject) =>
        void mute
          .pipeline()
          .call("GETSET", "k", "1")
          .exec(reject)
          .catch(() => {}),
    ),
    refused,
  );
  assert.deepEqual(await keys(), []);
  const terse = await open(t, { username: "terse", password: "pw" });
  assert.equal(await terse.call("GETSET", "k", "1"), null);
  await assert.rejects(terse.call("ZDIFF", "1", "k"), code("COMMAND_REFUSED"));
  await server.admin.acl("SETUSER", "mute", "+command");
  assert.deepEqual(await pipeline.exec(), [
    [null, "OK"],
    [null, "1"],
  ]);
});

test("inside a MULTI nothing is asked, because the question would become a part of it", async (t) => {
  const redis = await open(t);
  await redis.multi({ pipeline: false });
  await assert.rejects(redis.call("GETSET", "k", "1"), code("COMMAND_REFUSED"));
  await redis.set("k", "2");
  assert.deepEqual(await redis.exec(), [[null, "OK"]]);
  assert.equal(await redis.call("GETSET", "k", "3"), "2");
  await redis.multi({ pipeline: false });
  await redis.call("GETSET", "k", "4");
  assert.deepEqual(await redis.exec(), [[null, "3"]]);
});

test("a command that waits for an answer is not sent after its deadline, nor are the commands behind it", async (t) => {
  const redis = await open(t, { commandTimeoutMs: 300 });
  // Calls that begin in different ms are due in different ms: the end of the first frees the second in time, which is then sent.
  for (let round = 0; ; round++) {
    const key = `k${round}`;
    await server.admin.client("PAUSE", 1_500);
    const told = await outcomes([
      redis.call("GETSET", key, "1"),
      redis.set(key, "2"),
      redis.pipeline().call("APPEND", key, "3").exec(),
    ]);
    await eventually(async () => (await redis.ping()) === "PONG", 5_000, "the server goes on");
    const sent = told.filter((outcome) => outcome !== "NOT_SENT").length;
    if (sent > 0 && round < 20) continue;
    assert.deepEqual(told, ["NOT_SENT", "NOT_SENT", "NOT_SENT"]);
    assert.equal(await server.admin.exists(key), 0);
    break;
  }
});

test("a client that is closed rejects the commands that wait for an answer", async (t) => {
  const redis = await open(t);
  await server.admin.client("PAUSE", 500);
  const waiting = [redis.call("GETSET", "k", "1"), redis.set("k", "2"), redis.multi().call("APPEND", "k", "3").exec()];
  const rejected = outcomes(waiting);
  await disconnect(redis);
  assert.deepEqual(await rejected, ["NOT_SENT", "NOT_SENT", "NOT_SENT"]);
  await assert.rejects(redis.call("GETSET", "k", "1"), code("NOT_SENT"));
  await assert.rejects(redis.multi().call("GETSET", "k", "1").exec(), code("NOT_SENT"));
  assert.deepEqual(await keys(), []);
});

test(
  "with whenDown: fail no command waits for an answer while there is no connection",
  { timeout: 30_000 },
  async (t) => {
    await using proxy = await startProxy(server.port);
    const redis = await open(t, { port: proxy.port, whenDown: "fail", commandTimeoutMs: 60_000 });
    proxy.down();
    proxy.reset();
    await eventually(() => redis.status !== "ready", 5_000, "the loss has been noticed");
    const sent = [redis.call("GETSET", "k", "1"), redis.get("k"), redis.multi().call("APPEND", "k", "2").exec()];
    for (const outcome of await outcomes(sent)) assert.match(outcome, /^(NOT_SENT|CIRCUIT_OPEN)$/);
    await proxy.up();
    await redis.connect();
    assert.equal(await redis.call("GETSET", "k", "1"), null);
  },
);

test("a question that is lost with its connection is asked again on the next one", async (t) => {
  await using proxy = await startProxy(server.port);
  const redis = await open(t, { port: proxy.port });
  proxy.blackhole(true);
  const answers = Promise.all([
    redis.call("GETSET", "k", "1"),
    redis.get("k"),
    redis.multi().call("APPEND", "k", "2").exec(),
  ]);
  await new Promise((resolve) => setImmediate(resolve));
  redis.stream.destroy();
  proxy.blackhole(false);
  assert.deepEqual(await answers, [null, "1", [[null, 2]]]);
  assert.deepEqual(await keys(), ["app:k"]);
});
