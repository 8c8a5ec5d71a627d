import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type { LogFields } from "../../src/core/log.js";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { hangUpOn } from "../support/hang-up.js";
import { rejection } from "../support/make-client.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

/** Waits until every thread has its client. */
async function connectAll(manager: ConnectionManager<typeof Tasks>): Promise<void> {
  await eventually(async () => {
    await Promise.all(Array.from({ length: 16 }, () => manager.run("incr", "connected")));
    return manager.stats().threads.every(({ acquires }) => acquires > 0);
  }, 15_000);
}

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

test("while Redis is away one prober tries for all threads and pools, and all are back after it", async (t) => {
  const own = await startRedis();
  const manager = manage<typeof Tasks>(t, own, { tasks: fixture("tasks"), threads: { count: 4 } });
  t.after(() => own.stop());
  await manager.ready();
  await Promise.all(Array.from({ length: 16 }, (_, i) => manager.run("watchAndAdd", `w:${i}`)));
  await Promise.all(Array.from({ length: 8 }, (_, i) => manager.run("incr", `i:${i}`)));
  await own.kill();
  const away = await hangUpOn(own.port);
  const waiting = Array.from({ length: 16 }, (_, i) => manager.run("watchAndAdd", `again:${i}`));
  await eventually(() => manager.stats().breaker.state !== "closed");
  // The attempts that were under way when the breaker opened have come in by now. From here on there are only probes.
  await eventually(() => away.attempts() >= 6);
  const [attemptsBefore, startedAt] = [away.attempts(), performance.now()];
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  const seconds = (performance.now() - startedAt) / 1_000;
  const perSecond = (away.attempts() - attemptsBefore) / seconds;
  t.diagnostic(`${away.attempts()} attempts in all, ${perSecond.toFixed(1)} per second, ${away.atOnce()} at once`);
  assert.ok(perSecond <= 5, `${perSecond} probes per second`);
  away.server.close();
  await own.start();
  assert.equal((await Promise.all(waiting)).length, 16);
  assert.equal(manager.stats().breaker.state, "closed");
});

test("in an outage a probe is one connection, also by a client that has never connected", async (t) => {
  const own = await startRedis();
  const manager = manage<typeof Tasks>(t, own, { tasks: fixture("tasks"), threads: { count: 1 } });
  t.after(() => own.stop());
  await manager.ready();
  await own.kill();
  const begun: string[] = [];
  const away = createServer((socket) => {
    socket.on("error", () => {}).once("data", (data: Buffer) => begun.push(data.toString("latin1", 0, 1)));
    setTimeout(() => socket.destroy(), 20);
  }).listen(own.port, "127.0.0.1");
  const waiting = manager.run("watchAndAdd", "first:lease");
  await eventually(() => begun.length >= 8, 20_000);
  assert.deepEqual(
    [...new Set(begun)],
    ["*"],
    "each begins with a command, none with an inline PING or a TLS handshake",
  );
  away.close();
  await own.start();
  await waiting;
});

test("there are never more handshakes at once than connections.connecting", async (t) => {
  const own = await startRedis();
  await own.kill();
  const slow = await hangUpOn(own.port);
  const manager = manage<typeof Tasks>(t, own, {
    tasks: fixture("tasks"),
    threads: { count: 4 },
    connections: { connecting: 2 },
  });
  t.after(() => own.stop());
  const waiting = Array.from({ length: 32 }, () => manager.run("watchAndAdd", "n"));
  await eventually(() => slow.attempts() >= 4);
  assert.ok(slow.atOnce() <= 2, `${slow.atOnce()} at once`);
  slow.server.close();
  await own.start();
  assert.deepEqual(
    (await Promise.all(waiting)).toSorted((a, b) => a - b),
    Array.from({ length: 32 }, (_, i) => i + 1),
  );
});

test("with whenDown fail a command says CIRCUIT_OPEN, and when the next probe is", async (t) => {
  const own = await startRedis();
  const manager = manage<typeof Tasks>(t, own, { tasks: fixture("tasks"), redis: { whenDown: "fail" } });
  t.after(() => own.stop());
  const redis = await manager.getRedis();
  await own.kill();
  await eventually(() => manager.stats().breaker.state !== "closed");
  await assert.rejects(redis.get("k"), (error: Error & { nextProbeMs?: number }) => {
    assert.ok(code("CIRCUIT_OPEN")(error), String(error));
    assert.ok(error.nextProbeMs! >= 0 && error.nextProbeMs! <= 750);
    return true;
  });
  await own.start();
  await eventually(() => manager.stats().primary.state === "connected");
  assert.equal(await redis.get("k"), null);
});

for (const [whenDown, expected] of [
  ["wait", "NOT_SENT"],
  ["fail", "CIRCUIT_OPEN"],
] as const) {
  test(`while Redis is away its clients are handed out, and with whenDown ${whenDown} each command is ${expected}`, async (t) => {
    const own = await startRedis();
    const manager = manage<typeof Tasks>(t, own, {
      tasks: fixture("tasks"),
      redis: { whenDown, commandTimeoutMs: 1_000 },
    });
    t.after(() => own.stop());
    await manager.ready();
    const held = await manager.getRedis();
    const stop = await manager.subscribe("news", () => {});
    await connectAll(manager);
    await own.kill();
    await eventually(() => manager.stats().connections.open === 0 && manager.stats().breaker.state !== "closed");
    const calls = Array.from({ length: 16 }, () => [
      held.get("k"),
      manager.getRedis().then((redis) => redis.get("k")),
      manager.use((redis) => redis.get("k")),
      manager.run("incr", "n"),
      manager.subscribe("more", () => {}),
    ]);
    const settled = Promise.all(calls.flat().map((call) => rejection(call)));
    for (const error of await eventually(() => settled, 10_000, "every call has ended"))
      assert.ok(code(expected)(error), String(error));
    await own.start();
    await eventually(async () => (await manager.run("incr", "n").catch(() => 0)) > 0, 15_000);
    await eventually(() => manager.stats().primary.state === "connected", 15_000);
    assert.equal(await manager.use((redis) => redis.get("k")), null);
    await eventually(() => manager.health().ready, 15_000);
    await stop();
  });
}

for (const [whenDown, expected] of [
  ["wait", "NOT_SENT"],
  ["fail", "CIRCUIT_OPEN"],
] as const) {
  test(`a new thread gets a client while Redis is away too, and with whenDown ${whenDown} each command is ${expected}`, async (t) => {
    const own = await startRedis();
    const manager = manage<typeof Tasks>(t, own, {
      tasks: fixture("tasks"),
      redis: { whenDown, commandTimeoutMs: 1_000 },
    });
    t.after(() => own.stop());
    await manager.ready(); // no thread has a client yet, and nobody has subscribed
    await own.kill();
    await eventually(() => manager.stats().breaker.state !== "closed");
    const calls = Array.from({ length: 8 }, () => [manager.run("incr", "n"), manager.subscribe("new", () => {})]);
    const settled = Promise.all(calls.flat().map((call) => rejection(call)));
    for (const error of await eventually(() => settled, 10_000, "every call has ended"))
      assert.ok(code(expected)(error), String(error));
    await own.start();
    await connectAll(manager);
    const heard = new Promise<string>((resolve) => void manager.subscribe("news", resolve));
    await eventually(() => own.admin.publish("news", "back").then((hearers) => hearers === 1), 15_000);
    assert.equal(await heard, "back");
  });
}

test("ready() does not count a client that lost its connection as connected", async (t) => {
  const own = await startRedis();
  const manager = manage<typeof Tasks>(t, own, { tasks: fixture("tasks"), retry: { deadlineMs: 300 } });
  t.after(() => own.stop());
  await manager.ready();
  await own.kill();
  await eventually(() => manager.stats().primary.state === "connecting");
  assert.equal(manager.health().ready, false);
  // A server that ends may have accepted one more connection, of which it said nothing.
  await assert.rejects(
    manager.ready(),
    (error) => code("CONNECT_FAILED")(error) || code("MAXCLIENTS_SUSPECTED")(error),
  );
  await own.start();
  await eventually(() => manager.ready().then(() => true), 15_000);
});

test("the log reports an outage once for all threads: where, why, less and less often, and its end", async (t) => {
  const own = await startRedis();
  const lines: (readonly [level: string, message: string, fields: LogFields])[] = [];
  const at =
    (level: string) =>
    (message: string, fields: LogFields = {}): void =>
      void (/Redis/.test(message) && lines.push([level, message, fields]));
  const manager = manage<typeof Tasks>(t, own, {
    tasks: fixture("tasks"),
    threads: { count: 4 },
    logger: { debug() {}, info: at("info"), warn: at("warn"), error: at("error") },
  });
  t.after(() => own.stop());
  await manager.ready();
  await connectAll(manager);
  await Promise.all(Array.from({ length: 8 }, (_, i) => manager.run("watchAndAdd", `l:${i}`)));
  assert.equal(lines.length, 0);
  await own.kill();
  const waiting = Array.from({ length: 8 }, (_, i) => manager.run("watchAndAdd", `l:${i}`));
  await eventually(() => lines.some(([, , { attempts }]) => Number(attempts) >= 8), 30_000);
  await own.start();
  const [, , end] = await eventually(() => lines.find(([level]) => level === "info") ?? false, 30_000);
  await Promise.all(waiting);
  await eventually(() => manager.stats().connections.open >= 5, 15_000);
  const address = `127.0.0.1:${own.port}`;
  const told = lines.filter(([level]) => level !== "info");
  told.sort(([, , a], [, , b]) => Number(a["attempts"]) - Number(b["attempts"])); // from several threads
  const attempts = told.map(([, , fields]) => Number(fields["attempts"]));
  const codes = told.map(([, , fields]) => fields["code"]);
  const seldom = [1, 2, 4, 8, 16, 32, 64].filter((n) => n <= Math.max(...attempts));
  told.forEach(([level, message, fields], i) => {
    assert.deepEqual([level, message, fields["address"]], ["warn", "no connection to Redis", address]);
    // A connection that the dying server had accepted already gives another reason.
    assert.ok(seldom.includes(attempts[i]!) || codes.indexOf(codes[i]) === i, JSON.stringify(told));
  });
  assert.ok(codes.includes("ECONNREFUSED"), String(codes));
  for (const n of seldom) assert.ok(attempts.includes(n), String(attempts));
  assert.equal(new Set(attempts).size, attempts.length, "each is told once, by whichever thread tried");
  assert.deepEqual(lines.filter(([level]) => level === "info").length, 1);
  assert.equal(end["address"], address);
  assert.ok(Number(end["attempts"]) >= 8 && Number(end["awayMs"]) > 0, JSON.stringify(end));
});

test("a full server is reported as MAXCLIENTS_SUSPECTED instead of a bare EPIPE", async (t) => {
  const own = await startRedis({ args: ["--maxclients", "1"] });
  await own.admin.ping(); // takes the only place
  const manager = manage<typeof Tasks>(t, own, { tasks: fixture("tasks"), retry: { deadlineMs: 300 } });
  t.after(() => own.stop());
  await assert.rejects(manager.getRedis(), code("MAXCLIENTS_SUSPECTED"));
});

test("when a breaker's prober dies with its thread, another thread probes", async (t) => {
  const own = await startRedis();
  const { port } = own;
  const manager = manage<typeof Tasks>(t, own, { tasks: fixture("tasks"), threads: { count: 3 } });
  t.after(() => own.stop());
  await manager.ready();
  await Promise.all(Array.from({ length: 6 }, (_, i) => manager.run("incr", `p:${i}`)));
  await own.kill();
  // The server accepts and stays silent: the prober hangs until its thread is gone.
  const silent = createServer((socket) => void socket.on("error", () => {})).listen(port, "127.0.0.1");
  await once(silent, "listening");
  assert.equal((silent.address() as AddressInfo).port, port);
  const dying = Array.from({ length: 3 }, () => manager.run("exit", 1));
  for (const death of await Promise.allSettled(dying)) assert.equal(death.status, "rejected");
  silent.close();
  await own.start();
  await eventually(async () => (await manager.run("incr", "p:after")) >= 1, 15_000);
});
