import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { setTimeout } from "node:timers/promises";
import type { Client } from "../../src/connection/client.js";
import type { CommandTimeoutError } from "../../src/core/errors.js";
import { blockLater } from "../support/block.js";
import { eventually, gate } from "../support/gate.js";
import { openClient, rejection } from "../support/make-client.js";
import { code } from "../support/manage.js";
import { type Proxy, startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(async () => {
  await server.admin.flushall();
});
after(() => server.stop());

/** Through a link of this speed, once the client is connected. */
async function openSlowly(
  t: TestContext,
  bytesPerSecond: number,
  commandTimeoutMs: number,
): Promise<{ client: Client; proxy: Proxy }> {
  const proxy = await startProxy(server.port);
  const client = await openClient(t, server, { port: proxy.port, role: "dedicated", redis: { commandTimeoutMs } });
  t.after(() => proxy.close());
  proxy.bytesPerSecond = bytesPerSecond;
  return { client, proxy };
}

const reasonOf = (error: unknown): unknown => (error as CommandTimeoutError).reason;

const elapsed = (since: number): number => Math.round(performance.now() - since);

test("a reply of 16 MB that is still arriving at its deadline is waited for, and its connection stays", async (t) => {
  await server.admin.set("large", Buffer.alloc(16_000_000, "x"));
  const { client } = await openSlowly(t, 8_000_000, 1_600);
  const { stream } = client.redis;
  const startedAt = performance.now();
  const reply = await client.redis.getBuffer("large");
  t.diagnostic(`deadline 1600 ms, answered after ${elapsed(startedAt)} ms`);
  assert.equal(reply!.length, 16_000_000);
  assert.ok(elapsed(startedAt) > 1_600, "the link was slow enough to prove something");
  // A command that timed out meanwhile asks for a probe, whose PONG comes behind the large reply.
  const again = client.redis.getBuffer("large");
  assert.equal(await client.check(), true);
  assert.equal((await again)!.length, 16_000_000);
  assert.equal(client.redis.stream, stream);
});

test("a reply that stops arriving is COMMAND_TIMEOUT soon after its deadline, one that dribbles after one deadline more", async (t) => {
  await server.admin.set("large", Buffer.alloc(16_000_000, "x"));
  const deadlineMs = 1_200; // in which even a loaded machine begins to answer
  const { client, proxy } = await openSlowly(t, 4_000_000, deadlineMs);
  let startedAt = performance.now();
  assert.equal(reasonOf(await rejection(client.redis.getBuffer("large"))), "reply-arriving");
  t.diagnostic(`dribbling: deadline ${deadlineMs} ms, rejected after ${elapsed(startedAt)} ms`);
  assert.ok(elapsed(startedAt) > 2 * deadlineMs - 1);
  assert.ok(elapsed(startedAt) < 2 * deadlineMs + 250 + 1_000, "the promise, and a second for a loaded machine");

  // A loop that was late at the deadline, as on a loaded machine, cannot know that nothing came: it waits once more as long.
  const isSoon = async (): Promise<boolean> => {
    proxy.bytesPerSecond = Infinity;
    assert.equal(await client.redis.echo("through"), "through");
    proxy.bytesPerSecond = 4_000_000;
    startedAt = performance.now();
    const stopped = rejection(client.redis.getBuffer("large"));
    client.redis.stream.once("data", () => proxy.blackhole(true));
    try {
      assert.equal(reasonOf(await stopped), "reply-arriving");
    } finally {
      proxy.blackhole(false);
    }
    t.diagnostic(`stopped: deadline ${deadlineMs} ms, rejected after ${elapsed(startedAt)} ms`);
    assert.ok(elapsed(startedAt) < 2 * deadlineMs + 250 + 1_000);
    return elapsed(startedAt) < 2 * deadlineMs;
  };
  await eventually(isSoon, 60_000);
});

test("a reply that was arriving when its thread was blocked past the deadline is waited for across any gap", async (t) => {
  await server.admin.set("large", Buffer.alloc(4_000_000, "x"));
  const { client, proxy } = await openSlowly(t, 4_000_000, 2_500);
  const { stream } = client.redis;
  const reply = client.redis.getBuffer("large");
  const arriving = gate();
  let chunks = 0;
  stream.on("data", () => {
    if (++chunks === 3) arriving.open();
  });
  await arriving.promise;
  proxy.blackhole(true);
  await blockLater(2_900);
  // Longer than what was lost, which is granted again, and a gap that otherwise ends the waiting; shorter than a deadline.
  await setTimeout(1_500);
  proxy.blackhole(false);
  proxy.bytesPerSecond = Infinity;
  assert.equal((await reply)!.length, 4_000_000);
  assert.equal(client.redis.stream, stream);
});

test("a COMMAND_TIMEOUT says what the reply was late for: a silent server, commands ahead, a blocked loop", async (t) => {
  const client = await openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 1_000 } });
  const paused = await server.admin.client("PAUSE", 60_000, "WRITE");
  assert.equal(paused, "OK");
  // The server answers the first, after this was asked, and then holds the writes.
  const [echo, ...late] = [
    client.redis.echo("first"),
    rejection(client.redis.incr("n")),
    rejection(client.redis.incr("n")),
  ];
  assert.equal(await echo, "first");
  const behind = rejection(client.redis.echo("behind"));
  const queued = (await Promise.all(late))[1] as CommandTimeoutError;
  assert.deepEqual([queued.reason, queued.ahead], ["queued", 1], queued.message);
  assert.match(queued.message, /\(1 command is ahead of it\)/);
  const silent = (await behind) as CommandTimeoutError;
  assert.equal(silent.reason, "server-silent", silent.message);
  assert.ok(silent.silentMs! >= 900 && silent.ahead! >= 2, JSON.stringify(silent));

  // A loop that was blocked then has waited once more: a connection that has read nothing meanwhile knows that the server is silent.
  const other = await openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 1_000 } });
  await server.admin.config("SET", "notify-keyspace-events", "Em");
  await other.redis.subscribe("__keyevent@0__:keymiss");
  const timesOut = async (): Promise<CommandTimeoutError> => {
    const unanswered = rejection(other.redis.incr("n"));
    await blockLater(2_000);
    return (await unanswered) as CommandTimeoutError;
  };
  const both = await timesOut();
  assert.equal(both.reason, "server-silent", both.message);
  assert.ok(both.blockedMs! >= 500 && both.silentMs! >= 2_000, JSON.stringify(both));

  await server.admin.client("UNPAUSE");
  await other.redis.ping();
  await server.admin.client("PAUSE", 60_000, "WRITE");
  const reading = setInterval(() => void server.admin.get("missing"), 20);
  t.after(() => clearInterval(reading));
  const blocked = await timesOut();
  assert.equal(blocked.reason, "loop-blocked", blocked.message);
  assert.ok(blocked.blockedMs! >= 500, JSON.stringify(blocked));
  await server.admin.client("UNPAUSE");
});

test("messages of a subscription are no progress of a command that is not answered", async (t) => {
  const client = await openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 1_500 } });
  await server.admin.config("SET", "notify-keyspace-events", "Em");
  await client.redis.subscribe("__keyevent@0__:keymiss");
  let heard = 0;
  client.redis.on("message", () => heard++);
  const reading = setInterval(() => void server.admin.get("missing"), 20);
  t.after(() => clearInterval(reading));
  // Writes wait on the server, and with them what their connection sends next; a read of a missing key is a message.
  await server.admin.call("CLIENT", "PAUSE", "60000", "WRITE");
  t.after(() => server.admin.call("CLIENT", "UNPAUSE").then(() => undefined));
  const startedAt = performance.now();
  const unanswered = rejection(client.redis.set("k", 1));
  assert.ok(code("COMMAND_TIMEOUT")(await unanswered));
  t.diagnostic(`deadline 1500 ms, rejected after ${elapsed(startedAt)} ms and ${heard} messages`);
  assert.ok(heard > 10);
  assert.ok(elapsed(startedAt) < 1_500 + 250 + 1_000);
});

test("a blocking command has its own timeout besides the deadline, by whatever name and spelling", async (t) => {
  const commands: [string, ...(string | number)[]][] = [
    ["BLPOP", "q", "1"],
    ["brpop", "q", 1],
    ["BLMOVE", "q", "r", "LEFT", "RIGHT", "1"],
    ["BLMPOP", 1, "1", "q", "LEFT"],
    ["BZPOPMIN", "z", "1"],
    ["BZMPOP", "1", 1, "z", "MIN"],
    ["XREAD", "BLOCK", 1_000, "STREAMS", "s", "$"],
    ["XREADGROUP", "GROUP", "g", "c", "BLOCK", "1000", "STREAMS", "s", ">"],
    ["WAIT", "1", "1000"],
    ["WAITAOF", "1", "0", 1_000], // an error on a server before 7.2, but a timely one
  ];
  await server.admin.xgroup("CREATE", "s", "g", "$", "MKSTREAM");
  const opened = commands.map(() => openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 500 } }));
  const clients = await Promise.all(opened);
  const errors = await Promise.all(commands.map(([name, ...args], i) => rejection(clients[i]!.redis.call(name, args))));
  errors.forEach((error, i) => assert.ok(!error || error.name === "ReplyError", `${commands[i]!.join(" ")}: ${error}`));
});

test("what is written behind a blocking command has the time that one has, and is answered after it", async (t) => {
  const client = await openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 300 } });
  const pipeline = client.redis.pipeline().blpop("q", 1).set("k", "v").get("k").exec();
  const second = client.redis.blpop("q", 1);
  const echo = client.redis.echo("last");
  assert.deepEqual(
    (await pipeline)!.map(([, reply]) => reply),
    [null, "OK", "v"],
  );
  assert.deepEqual(await Promise.all([second, echo]), [null, "last"]);
});

test("10 of 10 items popped while this thread was blocked arrive", async (t) => {
  const opened = Array.from({ length: 10 }, () =>
    openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 200 } }),
  );
  const clients = await Promise.all(opened);
  const popped = clients.map(({ redis }) => redis.blpop("q", 1));
  await server.waitForClients((listed) => listed.filter(({ flags }) => flags.includes("b")).length === 10);
  void server.admin.rpush("q", ...popped.keys());
  await blockLater(1_800);
  const items = (await Promise.all(popped)).map((item) => Number(item![1]));
  assert.deepEqual(
    items.toSorted((a, b) => a - b),
    [...popped.keys()],
  );
});

test("each entry of a pipeline that timed out says so, late replies go to nobody, and what comes after is answered right", async (t) => {
  const client = await openClient(t, server, { role: "dedicated", redis: { commandTimeoutMs: 1_000 } });
  await server.admin.client("PAUSE", 60_000, "WRITE");
  const pipeline = client.redis.pipeline().echo("first").incr("n").echo("lost").incr("n").exec();
  const single = rejection(client.redis.incr("n"));
  const transaction = rejection(client.redis.multi().incr("n").incr("n").exec());
  const entries = (await pipeline)!.map(([error, reply]) => (error as { outcome?: string } | null)?.outcome ?? reply);
  assert.deepEqual(entries, ["first", "unknown", "unknown", "unknown"]);
  for (const error of [await single, await transaction]) assert.ok(code("COMMAND_TIMEOUT")(error), String(error));
  const later = Array.from({ length: 100 }, (_, i) => client.redis.echo(`own ${i}`));
  const counted = client.redis.get("n");
  await server.admin.client("UNPAUSE");
  assert.deepEqual(await Promise.all(later), [...later.keys()].map((i) => `own ${i}`)); // prettier-ignore
  assert.equal(await counted, "5");
});
