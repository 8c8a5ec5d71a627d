import assert from "node:assert/strict";
import { after, test, type TestContext } from "node:test";
import { Client } from "../../src/connection/client.js";
import { ownGate, type ServerGate } from "../../src/gate/connect-gate.js";
import { noopLogger } from "../../src/core/log.js";
import { connect, type ConnectOptions, disconnect } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { configFor } from "../support/fast-config.js";
import { code, fixture, manage } from "../support/manage.js";
import { own } from "../support/own-client.js";
import { startProxy } from "../support/proxy.js";
import { freePort, type RedisServer, startRedis } from "../support/redis-server.js";
import { NAME, restartStale, startSentinel, untilAsked, Watched } from "../support/sentinel.js";

const LIMIT = { timeout: 90_000 };

const started: RedisServer[] = [];
after(() => Promise.all(started.map((one) => one.stop())));

function kept(one: RedisServer): RedisServer {
  started.push(one);
  return one;
}

async function server(...args: string[]): Promise<RedisServer> {
  return kept(await startRedis({ args }));
}

async function sentinelOf(master: { readonly port: number }, epoch = 0): Promise<RedisServer> {
  return kept(await startSentinel(master, { epoch }));
}

/** A port on which no server listens. */
async function nobody(): Promise<{ port: number }> {
  return { port: await freePort() };
}

/** The options for these sentinels, which are asked in this order. */
function listed(...sentinels: readonly { readonly port: number }[]): NonNullable<ConnectOptions["redis"]> {
  const addresses = sentinels.map(({ port }) => ({ host: "127.0.0.1", port }));
  return { port: undefined, sentinelName: NAME, sentinels: addresses };
}

/** A client that made one attempt; after the test no connection may be left. */
async function once(t: TestContext, at: RedisServer, redis: ConnectOptions["redis"]): ReturnType<typeof own> {
  return own(t, at, { redis: { connectTimeoutMs: 20_000, ...redis }, retry: { attempts: 1 } });
}

test("a sentinel that names a dead port does not hide the answer of a better one", LIMIT, async (t) => {
  const master = await server();
  const stale = await sentinelOf(await nobody());
  const good = await sentinelOf(master);
  assert.equal(await (await once(t, master, listed(stale, good))).ping(), "PONG");
});

test("a sentinel that names a replica does not hide the answer of a better one", LIMIT, async (t) => {
  const master = await server();
  const replica = await server("--replicaof", "127.0.0.1", String(master.port));
  const stale = await sentinelOf(replica);
  const good = await sentinelOf(master);
  const redis = await once(t, master, listed(stale, good));
  assert.match(await redis.info("replication"), /role:master/);
});

test(
  "the newest epoch is believed, and an older one is not even tried, although most sentinels name it",
  LIMIT,
  async (t) => {
    const [old, master] = [await server(), await server()];
    const stale = [await sentinelOf(old, 3), await sentinelOf(old, 3)];
    const good = await sentinelOf(master, 5);
    const redis = await once(t, master, listed(...stale, good));
    assert.equal(await redis.set("key", "value"), "OK");
    assert.equal(await master.admin.get("key"), "value");
    await master.kill();
    await assert.rejects(
      connect({ env: {}, redis: listed(...stale, good), retry: { attempts: 1 } }),
      code("CONNECT_FAILED"),
    );
    await master.start();
  },
);

test("a sentinel that does not answer costs a moment, not its share of the time", { timeout: 15_000 }, async (t) => {
  const master = await server();
  const good = await sentinelOf(master);
  await using dark = await startProxy(good.port);
  dark.blackhole(true);
  const redis = await own(t, master, {
    redis: { ...listed(dark, good), connectTimeoutMs: 90_000 },
    retry: { attempts: 1, deadlineMs: 100_000 },
  });
  assert.equal(await redis.ping(), "PONG");
});

test("an address that does not answer costs its share of the time, once", { timeout: 30_000 }, async (t) => {
  const master = await server();
  await using dark = await startProxy(master.port);
  dark.blackhole(true);
  const redis = listed(await sentinelOf(dark), await sentinelOf(master));
  const gate = ownGate(configFor(master, { redis }));
  const first = clientAt(t, gate, "first", { ...redis, connectTimeoutMs: 2_000 });
  await first.connect();
  // Other connections first try the address that it has found.
  const others = ["second", "third"].map((name) => clientAt(t, gate, name, { ...redis, connectTimeoutMs: 600_000 }));
  await Promise.all(others.map((one) => one.connect()));
});

test("a wrong password is reported, whatever else is wrong at another sentinel's address", LIMIT, async () => {
  const locked = await server("--requirepass", "right");
  const good = await sentinelOf(locked);
  const stale = await sentinelOf(await nobody());
  for (const order of [listed(stale, good), listed(good, stale)])
    await assert.rejects(connect({ env: {}, redis: { ...order, password: "wrong" } }), code("AUTH_FAILED"));
});

test("no connection leaves a living master while only a stale sentinel answers", LIMIT, async (t) => {
  const master = await server();
  const good = await sentinelOf(master);
  const stale = await sentinelOf(await nobody());
  const manager = manage<typeof Tasks>(t, master, { tasks: fixture("topology-tasks"), redis: listed(good, stale) });
  await manager.ready();
  const before = await ids(master);
  await good.kill();
  await untilAsked(stale, 7); // for longer than a sentinel needs to learn of a failover
  await good.start();
  await untilAsked(good, 2);
  assert.deepEqual(await ids(master), before);
  assert.equal(await manager.run("incr", "n"), 1);
});

test(
  "a sentinel that was restarted with an old configuration sends no connection back to the old master",
  LIMIT,
  async (t) => {
    const watched = await Watched.start({ masterArgs: ["--rename-command", "SLAVEOF", ""] }); // sentinels cannot demote it
    const { master, replica, sentinels } = watched;
    const manager = manage<typeof Tasks>(t, replica, { tasks: fixture("topology-tasks"), redis: watched.redis });
    t.after(() => watched[Symbol.asyncDispose]());
    await manager.ready();
    await sentinels[0]!.admin.call("SENTINEL", "FAILOVER", NAME);
    await watched.failedOver();
    await replica.waitForClients((clients) => clients.length >= 3, 30_000);
    await master.waitForClients((clients) => clients.length === 0, 30_000);
    const [stale, ...others] = sentinels;
    for (const one of others) one.freeze();
    await restartStale(stale!);
    assert.equal(await manager.run("incrDedicated", "n"), 1); // a new connection asks it
    const before = await ids(replica);
    await untilAsked(stale!, 3);
    for (const one of others) one.thaw();
    assert.deepEqual(await ids(replica), before);
    assert.deepEqual(await ids(master), []);
    assert.equal(await replica.admin.get("n"), "1");
  },
);

test("if epochs start anew, or must not be asked for, the sentinels are believed in the end", LIMIT, async (t) => {
  const [old, master] = [await server(), await server()];
  const lines = ["user app on >secret -@all +sentinel|get-master-addr-by-name"];
  const sentinel = kept(await startSentinel(old, { epoch: 5, lines }));
  const redis = listed(sentinel);
  const both = [
    await own(t, master, { redis }),
    await own(t, master, { redis: { ...redis, sentinelUsername: "app", sentinelPassword: "secret" } }),
  ];
  assert.equal((await ids(old)).length, both.length);
  await sentinel.admin.call("SENTINEL", "REMOVE", NAME);
  await sentinel.admin.call("SENTINEL", "MONITOR", NAME, "127.0.0.1", String(master.port), "1");
  await master.waitForClients((clients) => clients.filter(({ name }) => name !== "").length === both.length, 30_000);
  assert.deepEqual(await Promise.all(both.map((one) => one.incr("n"))), [1, 2]);
  await Promise.all(both.map((one) => disconnect(one)));
});

test("a thread that does not know the master waits, and does not trust an older answer", LIMIT, async (t) => {
  const [old, master] = [await server(), await server()];
  const [stale, good] = [await sentinelOf(old, 3), await sentinelOf(master, 5)];
  const redis = listed(stale, good);
  const gate = ownGate(configFor(old, { redis }));
  await clientAt(t, gate, "first", redis).connect();
  await good.kill();
  const connecting = clientAt(t, gate, "other", redis).connect(); // it shares only memory with the first one
  await untilAsked(stale, 5);
  assert.deepEqual(await old.clients(), []);
  await good.start();
  await connecting;
  await master.waitForClients((clients) => clients.length === 2);
});

test("a connection that arrives late at the old master does not send the others there", LIMIT, async (t) => {
  const [old, master] = [await server(), await server()];
  const [stale, good] = [await sentinelOf(old, 3), await sentinelOf(master, 5)];
  await good.kill();
  await using way = await startProxy(old.port);
  const natMap = { [`127.0.0.1:${old.port}`]: { host: "127.0.0.1", port: way.port } };
  const redis = { ...listed(good, stale), natMap };
  const gate = ownGate(configFor(old, { redis }));
  const clientOf = (name: string): Client => clientAt(t, gate, name, redis);
  const [first, late] = [clientOf("first"), clientOf("late")];
  await first.connect();
  way.blackhole(true);
  const connecting = late.connect();
  await old.waitForClients(() => way.connections === 2);
  await stale.kill();
  await good.start();
  const there = await idOf(master, "first");
  way.blackhole(false);
  await connecting;
  await idOf(master, "late");
  assert.equal(await idOf(master, "first"), there);
});

/** A client as in another thread of the process: it shares the memory of the gate. */
function clientAt(t: TestContext, gate: ServerGate, name: string, redis: ConnectOptions["redis"]): Client {
  const retry = { deadlineMs: 300_000 };
  const config = configFor({ port: 0 }, { redis: { connectTimeoutMs: 60_000, ...redis }, retry });
  const client = new Client({ ...config, name, role: "thread", logger: noopLogger, gate });
  t.after(() => client.close(1_000));
  return client;
}

/** Of the client of this name, as soon as it is connected to the server. */
async function idOf(at: RedisServer, name: string): Promise<string> {
  const clients = await at.waitForClients((all) => all.some((one) => one.name === name), 30_000, `${name} is there`);
  return clients.find((one) => one.name === name)!.id;
}

/** Only of connections with a name: a sentinel's new connection has none for a moment. */
async function ids(at: RedisServer): Promise<string[]> {
  return (await at.clients())
    .filter(({ name }) => name !== "")
    .map(({ id }) => id)
    .toSorted();
}
