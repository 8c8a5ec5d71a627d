import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { inspect, isDeepStrictEqual } from "node:util";
import { Worker } from "node:worker_threads";
import type { ManagerOptions } from "../../../src/index.js";
import { getRedisSync, openSync, type SyncCommand } from "../../../src/sync.js";
import type { Question } from "../../fixtures/bare-sync.js";
import type * as ArgumentTasks from "../../fixtures/sync-argument-tasks.js";
import type * as SyncTasks from "../../fixtures/sync-tasks.js";
import { leakCheck } from "../../support/leak-check.js";
import { code, fixture, manage } from "../../support/manage.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

function managing(t: TestContext, options: Partial<ManagerOptions> = {}) {
  return manage<typeof SyncTasks>(t, server, {
    tasks: fixture("sync-tasks"),
    ...options,
    threads: { count: 1, ...options.threads },
  });
}

const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const LARGE = "large ✓ ".repeat(20_000);
const HUGE = Buffer.alloc(5_000_000, ALL_BYTES);

const COMMANDS: SyncCommand[] = [
  ["GET", "nothing"],
  ["SET", "text", "grüße 🚀"],
  ["GET", "text"],
  ["SET", "bytes", ALL_BYTES],
  ["GET", "bytes"],
  ["SET", ALL_BYTES, "a key of bytes"],
  ["GET", ALL_BYTES],
  ["SET", "large", LARGE],
  ["GET", "large"],
  ["SET", "huge", HUGE],
  ["GET", "huge"],
  ["STRLEN", "huge"],
  ["SET", "empty", ""],
  ["GET", "empty"],
  ["MGET", "text", "nothing", "bytes", "empty"],
  ["DECRBY", "number", 42],
  ["INCRBYFLOAT", "float", 1.5],
  ["hset", "hash", "a", 1, "b", ALL_BYTES, "__proto__", "c"],
  ["hgetall", "hash"],
  ["hgetall", "nothing"],
  ["HGETALL", "hash"],
  ["RPUSH", "list", "a", "b", "c"],
  ["LRANGE", "list", 0, -1],
  ["LRANGE", "nothing", 0, -1],
  ["ZADD", "ranks", 1.5, "one", 2, "two"],
  ["ZRANGE", "ranks", 0, -1, "WITHSCORES"],
  ["ZSCORE", "ranks", "one"],
  ["XADD", "stream", "1-1", "field", "value"],
  ["XRANGE", "stream", "-", "+"],
  ["SADD", "set", "a"],
  ["SMEMBERS", "set"],
  ["EVAL", "return {1, {'two', {3, false}}, {err = 'ERR inside'}}", 0],
  ["EVAL", "return redis.error_reply('MINE of my own')", 0],
  ["COMMAND", "INFO", "get"],
  ["GET"],
  ["LPUSH", "text", "wrong type"],
  ["NOSUCH", "command"],
  ["BLPOP", "list", 1],
  ["SUBSCRIBE", "channel"],
  ["WATCH", "text"],
  ["SELECT", 1],
  ["PING"],
];

/** Runs by the one client, then on an empty server by the other: all outcomes are the same except the connection's name. */
async function assertAlike(ask: (way: SyncTasks.Way) => Promise<unknown[]>, nameOf: (i: number) => string) {
  const expected = await ask("async");
  await server.admin.flushall();
  const given = await ask("sync");
  assert.equal(given.length, expected.length);
  for (const [i, outcome] of given.entries()) {
    // Not deepEqual, whose message would print megabytes.
    if (isDeepStrictEqual(unnamed(outcome), unnamed(expected[i]))) continue;
    assert.fail(`${nameOf(i)}: ${inspect(outcome).slice(0, 500)} instead of ${inspect(expected[i]).slice(0, 500)}`);
  }
}

function unnamed(value: unknown): unknown {
  const { message } = (value ?? {}) as { message?: unknown };
  if (typeof message !== "string") return value;
  return { ...(value as object), message: message.replace(/:(sync|thread),/, ",") };
}

test("a synchronous call gives what the asynchronous call gives: every kind of reply, error and size", async (t) => {
  const manager = managing(t);
  await assertAlike(
    (way) => manager.run("outcomes", { way, commands: COMMANDS }),
    (i) => inspect(COMMANDS[Math.floor(i / 2)]).slice(0, 80),
  );
  assert.deepEqual(await server.admin.getBuffer("huge"), HUGE);
});

const PIPELINES: SyncCommand[][] = [
  [
    ["set", "a", "1"],
    ["get", "a"],
    ["lpush", "a", "wrong type"],
    ["get", "nothing"],
    ["set", "large", LARGE],
    ["get", "large"],
    ["hset", "h", "f", ALL_BYTES],
    ["hgetall", "h"],
  ],
  [["multi"], ["set", "a", "2"], ["get", "a"], ["mget", "a", "nothing"], ["exec"]],
  [["multi"], ["set", "a", "2"], ["lpush", "a", "x"], ["exec"]],
  [["multi"], ["set", "a"], ["exec"]],
  [
    ["get", "a"],
    ["blpop", "list", "1"],
  ],
  [["double", "twice"]],
  [],
];

test("a synchronous pipeline gives what the asynchronous pipeline gives: errors in place, transactions, refusals", async (t) => {
  const scripts = { double: { lua: "return {ARGV[1], ARGV[1]}", numberOfKeys: 0 } };
  const manager = managing(t, { redis: { scripts } });
  await assertAlike(
    (way) => manager.run("pipelines", { way, all: PIPELINES }),
    (i) => inspect(PIPELINES[i]).slice(0, 80),
  );
});

const UNPAIRED: SyncCommand[][] = [
  [["multi"], ["set", "a", "1"]],
  [["set", "a", "1"], ["MULTI"]],
  [["set", "a", "1"], ["exec"]],
  [["exec"]],
  [["discard"], ["set", "a", "1"]],
  [["multi"], ["set", "a", "1"], ["discard"]], // without DISCARD it would stay open
  [["exec"], ["set", "a", "1"], ["multi"]],
  [["multi"], ["multi"], ["set", "a", "1"], ["exec"], ["exec"]],
  [["multi"], ["set", "a", "1"], ["exec"], ["exec"]],
  // The server refuses them with an argument, and the rest would run one by one, or not at all.
  [["multi", "now"], ["set", "a", "1"], ["exec"]],
  [["multi"], ["set", "a", "1"], ["exec", "now"]],
];

test("a synchronous pipeline whose MULTI and EXEC are not in pairs is refused before a byte is written", async (t) => {
  const manager = managing(t);
  const { given, isSame } = await manager.run("pipelinesOfOne", UNPAIRED);
  for (const [i, refused] of given.entries()) {
    const { code: actual, outcome } = refused as { code?: string; outcome?: string };
    assert.deepEqual([actual, outcome], ["REDTHREAD_NEEDS_DEDICATED", "not-sent"], inspect(UNPAIRED[i]));
  }
  assert.ok(isSame, "on the one connection, which its helper has kept");
  assert.equal(await server.admin.dbsize(), 0);
});

test("a transaction in a synchronous pipeline runs, in any spelling and beside other commands", async (t) => {
  const queued = [null, "QUEUED"];
  const ok = [null, "OK"];
  const { given } = await managing(t).run("pipelinesOfOne", [
    [["multi"], ["hset", "h", "f", "1"], ["hgetall", "h"], ["exec"]],
    [["Multi"], ["hgetall", "h"], ["EXEC"], ["get", "a"]],
    [["get", "a"], ["multi"], ["set", "a", "1"], ["exec"], ["multi"], ["get", "a"], ["exec"]],
  ]);
  assert.deepEqual(given, [
    [ok, queued, queued, [null, [1, { f: "1" }]]],
    [ok, queued, [null, [{ f: "1" }]], [null, null]],
    [[null, null], ok, queued, [null, ["OK"]], ok, queued, [null, ["1"]]],
  ]);
});

const NAMES = (
  "nosuch call callBuffer constructor then catch length promise pipeline options quit disconnect end resolve reject redis " +
  "addBatch fillResult send_command sendCommand execBuffer toString __proto__ hasOwnProperty valueOf _queue isPipeline monitor subscribe reset"
).split(" ");

test("every name in a synchronous pipeline runs the command of that name, or is an error as in a call", async (t) => {
  const manager = managing(t);
  const refusals = new Set(["REDTHREAD_NEEDS_DEDICATED", "REDTHREAD_COMMAND_REFUSED"]);
  for (const name of [...NAMES, "", "\r\n", "exec", "multi", "discard"]) {
    const { alone, second, called } = await manager.run("named", name);
    if (refusals.has((called as { code: string }).code)) {
      assert.ok(refusals.has((alone as { code: string }).code), name);
      assert.deepEqual(second, alone, name);
      continue;
    }
    assert.deepEqual(alone, [[called]], name);
    assert.match((second as [unknown, [Error]])[1][0].message, /^ERR unknown command /, name);
  }
  const [[unknown], set] = (
    await manager.run("pipelinesOfOne", [
      [
        ["call", "MULTI"],
        ["set", "a", "1"],
      ],
    ])
  ).given[0] as [[Error], unknown];
  assert.match(unknown.message, /^ERR unknown command 'call'/);
  assert.deepEqual(set, [null, "OK"]);
});

const ECHOED = { echoed: { lua: "return ARGV", numberOfKeys: 0 } };

function comparing(t: TestContext) {
  const tasks = fixture("sync-argument-tasks");
  return manage<typeof ArgumentTasks>(t, server, { tasks, threads: { count: 1 }, redis: { scripts: ECHOED } });
}

test("an argument of whatever type is stored as the asynchronous client stores it: in calls, pipelines and scripts", async (t) => {
  assert.deepEqual(await comparing(t).run("unlikeOfTable"), []);
});

test("arguments of any types together are stored as the asynchronous client stores them", async (t) => {
  assert.deepEqual(await comparing(t).run("unlikeOfRandom", { seed: 1, runs: 300 }), []);
});

test("an argument without a text, a callback, and a value that is no command are NOT_CLONEABLE before anything is sent", async (t) => {
  const [given, stored, pong] = (await comparing(t).run("refusals")) as [
    { code?: string; path?: string }[],
    number,
    string,
  ];
  assert.deepEqual(
    given.map(({ code: actual, path }) => [actual, path]),
    [
      ["command[2]", "command[3]", "command[0]", "command[0]", "commands[1][2]", "commands[0][3]", "commands[0]"],
      ["commands[1][0]", "commands[1]", "commands", "commands"],
    ]
      .flat()
      .map((path) => ["REDTHREAD_NOT_CLONEABLE", path]),
  );
  assert.deepEqual([stored, pong], [0, "PONG"]);
});

test("the server's errors have ioredis' class and fields, also inside replies", async (t) => {
  const manager = managing(t);
  const expected = await manager.run("replyErrors", "async");
  await server.admin.flushall();
  const given = await manager.run("replyErrors", "sync");
  assert.deepEqual(given, expected);
  assert.match(JSON.stringify(given), /\[true,"ReplyError","WRONGTYPE /);
});

test("calls at any interval are each answered once", async (t) => {
  const calls = 3_000;
  const counted = await managing(t).run("countApart", { key: "apart", calls });
  assert.deepEqual(
    counted,
    Array.from({ length: calls }, (_, i) => i + 1),
  );
});

test("the helpers for common commands give their types", async (t) => {
  const values = await managing(t).run("helpers");
  assert.deepEqual(
    [...values.slice(0, 3), Buffer.from(values[3] as Uint8Array).toString(), ...values.slice(4)],
    ["OK", null, "v", "v", null, 1, 1, 1, 5, ["v", null, "5"], 2, "two", { a: "1", b: "two" }, 2],
  );
});

test("scripts of the configuration are callable by their names", async (t) => {
  const manager = managing(t, {
    redis: { scripts: { double: { lua: "return {ARGV[1], ARGV[1]}", numberOfKeys: 0 } } },
  });
  assert.deepEqual(await manager.run("call", ["double", "twice"]), ["twice", "twice"]);
});

test("a synchronous client's connection has the calling thread's name, and counts in stats().connections", async (t) => {
  const manager = managing(t);
  await manager.ready();
  const open = manager.stats().connections.open;
  const [threadId, name] = await manager.run("identify");
  assert.match(name as string, new RegExp(`^redthread:app:.*:${process.pid}:${threadId as number}:sync$`));
  assert.equal(manager.stats().connections.open, open + 2); // and the thread's own
});

test("close() gives the connection back before it returns, and is idempotent", async (t) => {
  const manager = managing(t);
  const [listed, afterwards, isCached] = await manager.run("openAndClose");
  assert.match(listed as string, /:sync /);
  assert.equal(afterwards, "REDTHREAD_NOT_SENT");
  assert.equal(isCached, true);
  assert.equal((await server.clients()).filter(({ name }) => name.endsWith(":sync")).length, 1); // the cached one
});

test("disconnect() closes the synchronous clients too, and the next call opens another", async (t) => {
  const manager = managing(t);
  await manager.run("call", ["PING"]);
  await manager.run("disconnectAll");
  assert.deepEqual(
    (await server.clients()).filter(({ name }) => name.endsWith(":sync")),
    [],
  );
  assert.equal(await manager.run("call", ["PING"]), "PONG");
});

test("teardown() can still call, and the shutdown leaves nothing", async (t) => {
  const manager = managing(t);
  await manager.run("call", ["PING"]);
  const { threads } = await manager.shutdown();
  assert.deepEqual(
    threads.map(({ outcome }) => outcome),
    ["graceful"],
  );
  assert.equal(await server.admin.get("torn down"), "1");
});

test("the main thread is refused, and so is an impossible deadline", async () => {
  assert.throws(() => openSync(), code("CONFIG_INVALID"));
  assert.throws(() => getRedisSync(), code("CONFIG_INVALID"));
  for (const timeoutMs of [0, -1, Number.NaN, Infinity]) {
    assert.throws(() => openSync({ timeoutMs }), code("CONFIG_INVALID"));
  }
});

function bare(t: TestContext, env: NodeJS.ProcessEnv, question: Question = "use"): Promise<unknown[]> {
  const worker = new Worker(fixture("bare-sync"), {
    workerData: question,
    env: { ...env, NODE_V8_COVERAGE: process.env["NODE_V8_COVERAGE"] },
  });
  const gone = once(worker, "exit");
  t.after(() => gone); // it ends by itself
  leakCheck(t, server);
  return once(worker, "message");
}

test("a thread that no manager started takes its configuration from the environment, and can end", async (t) => {
  const [answer] = await bare(t, { REDIS_URL: server.url, REDTHREAD_APP_NAME: "bare" });
  const [value, name, pong] = answer as string[];
  assert.deepEqual([value, pong], ["thread", "PONG"]);
  assert.match(name!, /^redthread:bare:.*:sync$/);
});

test("in such a thread a wrong environment is CONFIG_INVALID", async (t) => {
  assert.deepEqual(await bare(t, { REDIS_PORT: "none" }), ["REDTHREAD_CONFIG_INVALID"]);
});

test("in such a thread, which has not loaded ioredis, the server's errors are of its class all the same", async (t) => {
  const [answer] = await bare(t, { REDIS_URL: server.url }, "replyError");
  assert.deepEqual(answer, { loaded: [], isReplyError: true, name: "ReplyError" });
});

test("in such a thread a helper that died is noticed at the latest by the wait's own limit, and replaced", async (t) => {
  await server.admin.call("CLIENT", "PAUSE", "60000", "WRITE");
  const answer = await bare(t, { REDIS_URL: server.url }, "killHelper");
  await server.admin.call("CLIENT", "UNPAUSE");
  assert.deepEqual(answer, [["REDTHREAD_COMMAND_TIMEOUT", null]]);
});
