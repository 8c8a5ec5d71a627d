import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import { Redis } from "ioredis";
import type { ClientContext } from "../src/connection/client-context.js";
import { Liveness } from "../src/connection/liveness.js";
import { ClientPool } from "../src/pool/pool.js";
import { eventually, gate } from "./support/gate.js";
import { leakCheck, nothingIsOpen } from "./support/leak-check.js";
import { fixture, manage } from "./support/manage.js";
import { newestHandle } from "./support/open-handles.js";
import { startProxy } from "./support/proxy.js";
import { startRedis, type RedisServer } from "./support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function client(port: number): Redis {
  const redis = new Redis({ port, host: "127.0.0.1", retryStrategy: null, lazyConnect: true, connectionName: "guest" });
  redis.on("error", () => undefined);
  return redis;
}

test("the observer sees everybody but itself", async (t) => {
  leakCheck(t, server);
  const redis = client(server.port);
  await redis.ping();
  const [listed, ...others] = await server.waitForClients((clients) => clients.length === 1);
  assert.equal(listed?.name, "guest");
  assert.equal(listed.cmd, "ping");
  assert.deepEqual(others, []);
  redis.disconnect();
});

test("a killed server comes back on its port and the observer with it", async (t) => {
  leakCheck(t, server);
  await server.admin.set("k", "v");
  await server.kill();
  await assert.rejects(client(server.port).connect());
  await server.restart();
  assert.equal(await server.admin.get("k"), null);
  assert.match(server.log(), /Ready to accept connections[^]*Ready to accept connections/);
});

test("a frozen server accepts and stays silent until it is thawed", async (t) => {
  leakCheck(t, server);
  await server.admin.ping();
  server.freeze();
  const socket = connect(server.port, "127.0.0.1");
  await once(socket, "connect");
  socket.write("PING\r\n");
  const pong = once(socket, "data");
  server.thaw();
  assert.equal(String((await pong)[0]), "+PONG\r\n");
  socket.destroy();
});

test("a reply cut in the middle is lost after the server has run the command", async (t) => {
  leakCheck(t, server);
  await using proxy = await startProxy(server.port);
  const redis = client(proxy.port);
  await redis.set("big", "x".repeat(100));
  proxy.cutAfterReplyBytes(50);
  await assert.rejects(redis.get("big"));
  proxy.cutAfterReplyBytes(0);
  const second = client(proxy.port);
  await assert.rejects(second.connect());
  assert.equal(proxy.connections, 0);
});

test("a black hole holds what is sent and lets it through once it is off", async (t) => {
  leakCheck(t, server);
  await using proxy = await startProxy(server.port);
  const redis = client(proxy.port);
  await redis.ping();
  proxy.blackhole(true);
  const held = redis.set("held", "1");
  const stranger = connect(proxy.port, "127.0.0.1");
  await once(stranger, "connect");
  assert.equal(await server.admin.get("held"), null);
  proxy.blackhole(false);
  await held;
  stranger.destroy();
  redis.disconnect();
});

test("reset, fin, down and up each do what they are called", async (t) => {
  leakCheck(t, server);
  await using proxy = await startProxy(server.port);
  for (const cut of ["reset", "fin"] as const) {
    const socket = connect(proxy.port, "127.0.0.1");
    await once(socket, "connect");
    await eventually(() => proxy.connections === 1);
    const ended = gate<string>();
    socket.on("error", (error: NodeJS.ErrnoException) => ended.open(error.code ?? ""));
    socket.on("end", () => ended.open("FIN"));
    socket.resume();
    proxy[cut]();
    assert.equal(await ended.promise, cut === "reset" ? "ECONNRESET" : "FIN");
    socket.destroy();
    await eventually(() => proxy.connections === 0);
  }
  proxy.down();
  await assert.rejects(once(connect(proxy.port, "127.0.0.1"), "connect"), { code: "ECONNREFUSED" });
  await proxy.up();
  proxy.latencyMs = 5;
  const redis = client(proxy.port);
  const replies = await Promise.all(Array.from({ length: 20 }, (_, i) => redis.echo(String(i))));
  assert.deepEqual(replies.map(Number), [...replies.keys()]);
  redis.disconnect();
});

test("what did not happen in time is named", async () => {
  const never = eventually(() => assert.equal(1, 2), 30, "one is two");
  await assert.rejects(never, /not within 30 ms: one is two[^]*1 !== 2/);
  await assert.rejects(
    eventually(() => gate().promise, 30, "a gate nobody opens"),
    /a gate nobody opens/,
  );
});

const left = (since: number): Promise<string> =>
  nothingIsOpen(since, 100).then(
    () => "nothing",
    (error: Error) => error.message,
  );

test("a timer that the library leaves is found although it is unref'd, and named by the line that made it", async () => {
  const since = newestHandle();
  const liveness = new Liveness({ options: { redis: { heartbeatMs: 60_000 } } } as unknown as ClientContext);
  liveness.start();
  const own = setInterval(() => {}, 60_000).unref(); // the test's, which is no business of the check
  assert.match(await left(since), /Timeout made at .*dist\/src\/connection\/liveness\.js:\d+/);
  liveness.stop();
  await nothingIsOpen(since);
  clearInterval(own);
});

test("an interval that the library leaves is found by the check itself", async () => {
  const since = newestHandle();
  const hooks: (() => Promise<void>)[] = [];
  leakCheck({ after: (hook) => hooks.push(hook) }, server);
  const pool = new ClientPool<object>(
    {
      open: async () => ({}),
      isAlive: () => true,
      check: async () => true,
      reset: async () => true,
      close: async () => {},
    },
    {
      name: "forgotten",
      max: 1,
      acquireTimeoutMs: 1_000,
      idleTimeoutMs: 60_000,
      maxLifetimeMs: 60_000,
      idleCheckMs: 500,
      retry: { baseDelayMs: 5, maxDelayMs: 5 },
    },
  );
  assert.equal(await left(since), "nothing", "a pool that nobody has asked is not made yet");
  await (await pool.acquire()).release();
  await assert.rejects(hooks[0]!(), /1 are left:\n {2}Timeout made at .*dist\/src\/pool\/pool-entries\.js/);
  await pool.close(0);
});

test("a connection and a thread that the library leaves are found, the observer is not", async (t) => {
  const since = newestHandle();
  await server.admin.ping();
  await manage(t, server, { tasks: fixture("tasks"), threads: { count: 1 } }).ready();
  const found = await left(since);
  for (const type of ["WORKER", "MESSAGEPORT", "TCPWRAP"]) assert.match(found, new RegExp(`${type} made`));
  assert.equal(found.match(/TCPWRAP/g)?.length, 1);
});
