import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { after, before, test, type TestContext } from "node:test";
import { Client } from "../../src/connection/client.js";
import type { ClientOptions } from "../../src/connection/client-context.js";
import { ownGate } from "../../src/gate/connect-gate.js";
import { noopLogger } from "../../src/core/log.js";
import type { ClientRole } from "../../src/core/names.js";
import { configFor } from "../support/fast-config.js";
import { eventually } from "../support/gate.js";
import { leakCheck } from "../support/leak-check.js";
import { startProxy } from "../support/proxy.js";
import { parseClient, startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

interface Overrides {
  port?: number;
  role?: ClientRole;
  redis?: NonNullable<Parameters<typeof configFor>[1]>["redis"];
  retry?: NonNullable<Parameters<typeof configFor>[1]>["retry"];
  onReconnected?: NonNullable<ClientOptions["onReconnected"]>;
}

async function open(t: TestContext, overrides: Overrides = {}): Promise<Client> {
  const client = make(t, overrides);
  await client.connect();
  return client;
}

function make(t: TestContext, { port = server.port, role = "thread", redis, retry, onReconnected }: Overrides): Client {
  const config = configFor({ port }, { ...(redis && { redis }), ...(retry && { retry }) });
  const client = new Client({
    redis: config.redis,
    retry: config.retry,
    name: `redthread:test:${t.name.length}:${role}`,
    role,
    logger: noopLogger,
    gate: ownGate(config),
    ...(onReconnected && { onReconnected }),
  });
  t.after(() => client.close(1_000));
  leakCheck(t, server);
  return client;
}

const code = (expected: string) => (error: unknown) => (error as { code?: string }).code === `REDTHREAD_${expected}`;

async function kill(client: Client): Promise<void> {
  const clients = await server.waitForClients((listed) => listed.some(({ name }) => name === client.options.name));
  // A command that is written before the client notices the kill is REPLY_LOST. These tests are about later commands.
  // `once` of node:events would reject where the kill shows as an ECONNRESET before the close.
  const noticed = new Promise<void>((resolve) => client.redis.once("close", () => resolve()));
  await server.admin.client("KILL", "ID", clients.find(({ name }) => name === client.options.name)!.id);
  await noticed;
}

test("a connection carries its name on the server and is gone once it is closed", async (t) => {
  const client = await open(t);
  const listed = await server.clients();
  assert.deepEqual(
    listed.map(({ name }) => name),
    [client.options.name],
  );
  assert.equal(client.state, "connected");
  await client.close(1_000);
  assert.equal(client.state, "closed");
  await assert.rejects(client.redis.get("k"), code("NOT_SENT"));
  await assert.rejects(client.connect(), code("NOT_SENT"));
});

const hasIPv6 = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === "::1"));

test(
  "a server at an IPv6 address is connected to, in brackets as in a url or without",
  { skip: !hasIPv6 },
  async (t) => {
    const own = await startRedis({ args: ["--bind", "127.0.0.1", "::1"] });
    t.after(() => own.stop());
    for (const redis of [{ host: "[::1]" }, { host: "::1" }, { url: `redis://[::1]:${own.port}` }]) {
      const client = make(t, { port: own.port, redis });
      await client.connect();
      const listed = (await own.clients()).find(({ name }) => name === client.options.name);
      assert.match(listed!.addr, /^\[::1\]:/);
      await client.close(1_000);
    }
  },
);

test("concurrent first calls share one connection", async (t) => {
  const client = make(t, {});
  await Promise.all(Array.from({ length: 50 }, () => client.connect()));
  assert.equal((await server.clients()).length, 1);
});

test("closing a client that never connected opens nothing", async (t) => {
  const client = make(t, { port: 1 });
  await client.close(1_000);
  assert.equal(client.state, "closed");
});

test("a client held across 50 kills keeps working, each INCR settles, and none is counted twice", async (t) => {
  const client = await open(t);
  let acknowledged = 0;
  let lost = 0;
  let running = true;
  const load = Array.from({ length: 8 }, async () => {
    while (running) {
      try {
        await client.redis.incr("kills");
        acknowledged++;
      } catch (error) {
        if (code("REPLY_LOST")(error)) lost++;
        else if (!code("NOT_SENT")(error)) throw error;
      }
    }
  });
  for (let i = 0; i < 50; i++) await kill(client);
  running = false;
  await Promise.all(load);
  const counter = Number(await client.redis.get("kills"));
  assert.ok(acknowledged <= counter && counter <= acknowledged + lost, `${acknowledged} <= ${counter} <= +${lost}`);
  assert.equal(client.redis.listenerCount("error"), 1);
  assert.equal(client.redis.listenerCount("close"), 0);
});

test("the PING on a silent connection never becomes a part of its holder's MULTI", async (t) => {
  const client = await open(t, { role: "dedicated", redis: { heartbeatMs: 50, commandTimeoutMs: 1_000 } });
  await client.redis.multi({ pipeline: false });
  await client.redis.set("k", "v");
  await new Promise((resolve) => setTimeout(resolve, 200));
  server.freeze();
  await assert.rejects(client.redis.get("k"), code("COMMAND_TIMEOUT"));
  server.thaw();
  assert.deepEqual(await client.redis.exec(), [
    [null, "OK"],
    [null, "v"],
  ]);
});

test("a WAIT is refused when its connection was lost with the writes that it waits for, and sent after a new write", async (t) => {
  const client = await open(t, { role: "dedicated" });
  await client.redis.incr("waited");
  await kill(client);
  await client.connect();
  await assert.rejects(client.redis.wait(0, 100), code("NOT_SENT"));
  assert.deepEqual(await Promise.all([client.redis.incr("waited"), client.redis.wait(0, 100)]), [2, 0]);
  await kill(client);
  assert.equal(client.isAlive(), false);
  const held = [client.redis.incr("waited"), client.redis.wait(0, 100)];
  assert.deepEqual(await Promise.all(held), [3, 0]);
  await kill(client);
  await client.connect();
  assert.equal(await client.reset(), true);
  assert.equal(await client.redis.wait(0, 100), 0, "the next holder waits for nothing of the last one's");
});

test("scripts work again after the connection was killed and the server's scripts flushed", async (t) => {
  const client = await open(t, { redis: { scripts: { twice: { lua: "return ARGV[1] * 2", numberOfKeys: 0 } } } });
  const redis = client.redis as unknown as { twice(n: number): Promise<number> };
  assert.equal(await redis.twice(4), 8);
  await server.admin.script("FLUSH");
  assert.equal(await redis.twice(5), 10);
  await kill(client);
  assert.equal(await redis.twice(6), 12);
});

test("subscriptions come back after a kill, and the owner is told of the gap", async (t) => {
  let gaps = 0;
  const client = await open(t, { role: "subscriber", onReconnected: () => gaps++ });
  const heard: string[] = [];
  client.redis.on("message", (_channel, message) => heard.push(message));
  await client.redis.subscribe("news", "weather");
  await server.admin.publish("news", "one");
  await kill(client);
  await eventually(() => gaps === 1);
  await server.admin.publish("weather", "two");
  await eventually(() => heard.length === 2);
  assert.deepEqual(heard, ["one", "two"]);
});

test("a sharded channel that is subscribed to during a reconnect gets its prefix once, like the restored channels", async (t) => {
  const client = await open(t, { role: "subscriber", redis: { keyPrefix: "app:" } });
  await client.redis.ssubscribe("news");
  const wanted = new Promise((resolve) => {
    client.redis.once("ready", () => resolve(client.redis.ssubscribe("weather"))); // its handshake is still under way
  });
  await kill(client);
  await wanted;
  const channels = (await server.admin.call("PUBSUB", "SHARDCHANNELS")) as string[];
  assert.deepEqual(channels.toSorted(), ["app:news", "app:weather"]);
});

test("a command issued while the server is away waits for its return", async (t) => {
  const own = await startRedis();
  t.after(() => own.stop());
  const client = await open(t, { port: own.port });
  await own.kill();
  const answer = client.redis.set("k", "v");
  const pipeline = client.redis.pipeline().get("k").incr("n").exec();
  const transaction = client.redis.multi().incr("n").get("k").exec();
  await own.start();
  assert.equal(await answer, "OK");
  assert.deepEqual(await pipeline, [
    [null, "v"],
    [null, 1],
  ]);
  assert.deepEqual(await transaction, [
    [null, 2],
    [null, "v"],
  ]);
  await client.close(1_000);
});

test("a command that found no connection by its deadline says that it was not sent", async (t) => {
  const own = await startRedis();
  t.after(() => own.stop());
  const client = await open(t, { port: own.port, redis: { commandTimeoutMs: 100 } });
  await own.kill();
  const pipeline = client.redis.pipeline().get("a").get("b").exec();
  await assert.rejects(client.redis.get("k"), code("NOT_SENT"));
  const entries = (await pipeline)!;
  assert.ok(entries.every(([error]) => code("NOT_SENT")(error as Error)));
  await client.close(1_000);
});

test("with whenDown fail a command is refused at once while there is no connection", async (t) => {
  const own = await startRedis();
  t.after(() => own.stop());
  const client = await open(t, { port: own.port, redis: { whenDown: "fail" } });
  await own.kill();
  await eventually(() => client.state === "connecting");
  await assert.rejects(client.redis.get("k"), (error: Error & { outcome?: string }) => {
    assert.ok(code("NOT_SENT")(error) || code("CIRCUIT_OPEN")(error));
    assert.equal(error.outcome, "not-sent");
    return true;
  });
  await client.close(1_000);
});

test("a command written to a connection that dies before the reply says that it may have run", async (t) => {
  const proxy = await startProxy(server.port);
  t.after(() => proxy.close());
  const client = await open(t, { port: proxy.port });
  proxy.blackhole(true);
  const single = client.redis.incr("lost");
  const pipeline = client.redis.pipeline().incr("lost").incr("lost").exec();
  // Registered before the reset, because the rejection would be unhandled for a turn.
  const rejected = assert.rejects(single, (error: Error & { outcome?: string }) => {
    assert.ok(code("REPLY_LOST")(error), String(error));
    assert.equal(error.outcome, "unknown");
    return true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  proxy.blackhole(false);
  proxy.reset();
  await rejected;
  for (const [error] of (await pipeline)!) assert.ok(code("REPLY_LOST")(error), String(error));
});

test("a command corked in the turn that destroys the socket says that it was not sent", async (t) => {
  const client = await open(t);
  await client.redis.set("corked", "first");
  const written = client.redis.get("corked"); // leaves at once, because the command before it was alone
  const corked = client.redis.set("corked", "second");
  client.redis.stream.destroy();
  await Promise.all([assert.rejects(written, code("REPLY_LOST")), assert.rejects(corked, code("NOT_SENT"))]);
  assert.equal(await client.redis.get("corked"), "first");
});

test("a command written before close is answered", async (t) => {
  const client = await open(t);
  const replies = Promise.all(Array.from({ length: 100 }, (_, i) => client.redis.set(`late:${i}`, i)));
  await client.close(1_000);
  assert.equal((await replies).length, 100);
  assert.equal(await server.admin.get("late:99"), "99");
});

test("a command issued while the client closes was not sent, and says so", async (t) => {
  const client = await open(t);
  await client.redis.set("closing", "first");
  const closing = client.close(1_000);
  await assert.rejects(client.redis.set("closing", "second"), code("NOT_SENT"));
  await closing;
  assert.equal(await server.admin.get("closing"), "first");
});

test("the commands of one turn leave in one write and in order", async (t) => {
  const client = await open(t);
  await new Promise((resolve) => setImmediate(resolve)); // a new turn, after the turn of the PONG
  let writes = 0;
  const { stream } = client.redis;
  const handle = stream as unknown as { _writev: (...args: unknown[]) => void; _write: (...args: unknown[]) => void };
  for (const name of ["_writev", "_write"] as const) {
    const original = handle[name];
    handle[name] = function (...args) {
      writes++;
      original.apply(this, args);
    };
  }
  const replies = await Promise.all([
    client.redis.set("order", "1"),
    client.redis.append("order", "2"),
    client.redis.multi().append("order", "3").exec(),
    client.redis.append("order", "4"),
    client.redis.get("order"),
  ]);
  assert.equal(replies.at(-1), "1234");
  assert.equal(writes, 1);
});

test("a shared client refuses commands that would spoil it for other callers", async (t) => {
  const client = await open(t);
  const { redis } = client;
  const refused = [
    () => redis.blpop("list", 1),
    () => redis.call("BLPOP", "list", "1"),
    () => redis.subscribe("c"),
    () => redis.watch("k"),
    () => redis.select(1),
    () => redis.call("MONITOR"),
    () => redis.client("SETNAME", "mine"),
    () => redis.xread("BLOCK", 10, "STREAMS", "s", "$"),
    () => redis.multi({ pipeline: false }),
    () => redis.pipeline().get("a").blpop("list", 1).exec(),
    () => redis.pipeline([["call", "MULTI"], ["discard"]]).exec(),
    () => {
      const piped = redis.pipeline([["multi"], ["blpop", "list", "1"]]);
      void piped.exec(); // as a part of the transaction
      return piped.exec();
    },
    () =>
      redis
        .pipeline([
          ["call", "MULTI"],
          ["call", "MULTI"],
        ])
        .exec(),
    () => redis.quit(),
  ];
  for (const refuse of refused)
    await assert.rejects(async () => await refuse(), code("NEEDS_DEDICATED"), refuse.toString());
  assert.equal(await redis.xread("STREAMS", "s", "0"), null);
  assert.match(await redis.client("INFO"), /db=0/);
  assert.deepEqual(await redis.multi().set("fine", 1).get("fine").exec(), [
    [null, "OK"],
    [null, "1"],
  ]);
  assert.throws(() => redis.duplicate(), /duplicated/);
});

test("no reply by the deadline is COMMAND_TIMEOUT, and the late reply goes to nobody else", async (t) => {
  const client = await open(t, { redis: { commandTimeoutMs: 100 } });
  await server.admin.client("PAUSE", 400, "ALL");
  const timedOut = client.redis.incr("paused");
  await assert.rejects(timedOut, (error: Error & { outcome?: string }) => {
    assert.ok(code("COMMAND_TIMEOUT")(error), String(error));
    assert.equal(error.outcome, "unknown");
    assert.match(error.message, /within 100 ms \(the server said nothing for \d+ ms\): it may still run/);
    return true;
  });
  await eventually(async () => (await client.redis.echo("mine").catch(() => "")) === "mine");
});

test("a thread blocked past the deadline does not reject commands that were answered meanwhile", async (t) => {
  const client = await open(t, { redis: { commandTimeoutMs: 100 } });
  const replies = Array.from({ length: 20 }, (_, i) => client.redis.set(`blocked:${i}`, "x"));
  await new Promise((resolve) => setImmediate(resolve));
  const until = performance.now() + 400;
  while (performance.now() < until);
  assert.ok((await Promise.all(replies)).every((reply) => reply === "OK"));
});

test("a blocking command's deadline is its own timeout plus the command timeout", async (t) => {
  const client = await open(t, { role: "dedicated", redis: { commandTimeoutMs: 100 } });
  assert.equal(await client.redis.blpop("nothing", 1), null);
  const endless = client.redis.blpop("something", 0);
  await new Promise((resolve) => setTimeout(resolve, 300));
  await server.admin.rpush("something", "x");
  assert.deepEqual(await endless, ["something", "x"]);
});

test("a server that accepts and stays silent is CONNECT_FAILED within the connect timeout of each attempt", async (t) => {
  const silent = createServer((socket) => socket.on("error", () => {})).listen(0, "127.0.0.1");
  await once(silent, "listening");
  t.after(() => silent.close());
  const { port } = silent.address() as AddressInfo;
  const client = make(t, { port, redis: { connectTimeoutMs: 100 }, retry: { deadlineMs: 300 } });
  await assert.rejects(client.connect(), (error: Error) => {
    assert.ok(code("CONNECT_FAILED")(error));
    assert.match(String((error.cause as Error).message), /within 100 ms|within \d+ ms/);
    return true;
  });
});

test("an unreachable server is CONNECT_FAILED at the retry deadline, with the last cause", async (t) => {
  const client = make(t, { port: 1, retry: { deadlineMs: 200 } });
  await assert.rejects(client.connect(), (error: Error) => {
    assert.ok(code("CONNECT_FAILED")(error));
    assert.equal((error.cause as { code?: string }).code, "ECONNREFUSED");
    return true;
  });
  assert.equal(client.state, "disconnected");
});

test("a wrong password is AUTH_FAILED at once and shows up nowhere in the error", async (t) => {
  const client = make(t, { redis: { username: "nobody", password: "s3cret" } });
  await assert.rejects(client.connect(), (error: Error) => {
    assert.ok(code("AUTH_FAILED")(error));
    assert.doesNotMatch(JSON.stringify(error, Object.getOwnPropertyNames(error)), /s3cret/);
    return true;
  });
});

test("an error reply does not carry the command's arguments", async (t) => {
  const client = await open(t);
  await client.redis.set("text", "secret-value");
  await assert.rejects(client.redis.lpush("text", "secret-value"), (error: Error & { command?: object }) => {
    assert.match(error.message, /WRONGTYPE/);
    assert.deepEqual(error.command, { name: "lpush" });
    return true;
  });
});

test("a transaction whose WATCH went with the connection does not run on the next one", async (t) => {
  const client = await open(t, { role: "dedicated" });
  const { redis } = client;
  await redis.watch("balance");
  await kill(client);
  await eventually(async () => (await server.clients()).length === 1 && client.state === "connected");
  await assert.rejects(redis.multi().set("balance", 1).exec(), code("NOT_SENT"));
  assert.equal(await redis.get("balance"), null);
  assert.deepEqual(await redis.multi().set("balance", 2).exec(), [[null, "OK"]]);
});

test("the UNWATCH of a returned client leaves at once, or with the first command of a next holder that waits already", async (t) => {
  const client = await open(t, { role: "dedicated" });
  const { redis } = client;
  const now = performance.now();
  t.mock.method(performance, "now", () => now); // the turns take no time: in turns that compute, commands leave at once
  const writesOf = async (isAwaited: boolean): Promise<number> => {
    await redis.watch("k");
    await new Promise((resolve) => setImmediate(resolve));
    await Promise.all([redis.ping(), redis.ping()]); // two at once: from now on, writes wait for the end of the turn
    const written = t.mock.method(redis.stream, "_write");
    assert.equal(await client.reset(isAwaited), true);
    const next = redis.ping();
    written.mock.restore();
    await next;
    return written.mock.callCount();
  };
  assert.equal(await writesOf(false), 1);
  assert.equal(await writesOf(true), 0);
});

test("a returned client is repaired, and not fit for return once it subscribed", async (t) => {
  const client = await open(t, { role: "dedicated" });
  const { redis } = client;
  redis.on("message", () => {});
  await redis.watch("k");
  await redis.select(3);
  await redis.multi({ pipeline: false });
  await redis.set("k", 1);
  assert.equal(await client.reset(), true);
  const { db, multi, flags } = parseClient(String(await redis.client("INFO")));
  assert.deepEqual({ db, multi, flags }, { db: "0", multi: "-1", flags: "N" });
  assert.equal(redis.listenerCount("message"), 0);
  assert.equal(await client.reset(), true);
  await redis.subscribe("c");
  assert.equal(await client.reset(), false);
});

test("a client that was idle while every connection was killed reconnects by itself", async (t) => {
  const client = await open(t);
  const [old] = await server.waitForClients((clients) => clients.some(({ name }) => name === client.options.name));
  await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await server.waitForClients((clients) =>
    clients.some(({ name, id }) => name === client.options.name && id !== old!.id),
  );
  // The server lists the connection as soon as it is named, while its handshake may be still under way.
  await eventually(() => client.state === "connected");
  assert.equal(await client.check(), true);
});

test("a socket that the peer has half closed leads to one reconnect, however many ask for it", async (t) => {
  const proxy = await startProxy(server.port);
  t.after(() => proxy.close());
  const client = await open(t, { port: proxy.port });
  let attempts = 0;
  client.redis.on("connect", () => attempts++);
  for (let i = 1; i <= 20; i++) {
    const asked = new Promise((resolve) => {
      // The peer's FIN has come: the socket is not writable any more, and its close event follows later.
      client.redis.stream.once("end", () => resolve(Promise.all(Array.from({ length: 10 }, () => client.connect()))));
    });
    proxy.fin();
    await asked;
    assert.equal(await client.redis.echo(`${i}`), `${i}`);
    assert.equal(attempts, i);
  }
});

test("a connection that took over subscriptions of a lost connection is neither idle nor fit for the next holder", async (t) => {
  const client = await open(t, { role: "dedicated" });
  assert.equal(client.isIdle, true);
  await client.subscribeAgain({ by: "subscribe", channel: "news", isConfirmed: true, asks: 1 }, () => {});
  assert.deepEqual([client.isIdle, await client.reset()], [false, false]);
});
