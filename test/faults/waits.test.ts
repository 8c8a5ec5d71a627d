import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { connRetry, type ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/waiting-tasks.js";
import { Cluster } from "../support/cluster.js";
import { eventually } from "../support/gate.js";
import { openClient, rejection, serverPerTest } from "../support/make-client.js";
import { fixture, manage } from "../support/manage.js";
import { Program } from "../support/program.js";
import type { RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const ONE_LEASE = { tasks: fixture("waiting-tasks"), threads: { count: 1 }, dedicated: { max: 1 } };
const start = serverPerTest();

test("threads that compute when Redis returns do not keep the others from reconnecting", LIMIT, async (t) => {
  const server = await start();
  const connections = { connecting: 1 };
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("waiting-tasks"),
    threads: { count: 4 }, // four, so that at least one of them waits for the breaker when they are stopped
    connections,
  });
  await manager.ready();
  await eventually(async () => {
    await Promise.all(Array.from({ length: 16 }, () => manager.run("ping")));
    return (await server.clients()).length >= 4;
  });
  await server.kill();
  await eventually(() => manager.stats().breaker.state !== "closed");
  const cells = new Int32Array(new SharedArrayBuffer(8));
  const parked = Array.from({ length: 4 }, () => manager.run("park", cells));
  try {
    await eventually(() => Atomics.load(cells, 0) === 4);
    await server.start();
    assert.equal(await (await manager.getRedis()).echo("back"), "back");
  } finally {
    Atomics.store(cells, 1, 1);
    Atomics.notify(cells, 1);
  }
  assert.equal((await Promise.all(parked)).length, 4);
});

test("callers that give up during an outage leave nothing behind", LIMIT, async (t) => {
  const server = await start();
  const client = await openClient(t, server);
  await server.kill();
  await eventually(() => !client.isAlive());
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  let collected = 0;
  const registry = new FinalizationRegistry(() => collected++);
  for (let i = 0; i < 1_000; i++) await giveUp((reason) => registry.register(reason, undefined));
  await eventually(() => (collect(), collected > 950), 10_000, "the abort reasons are collected");
  await server.start();
  await client.connect();

  async function giveUp(seen: (reason: Error) => void): Promise<void> {
    const stop = new AbortController();
    const connecting = rejection(client.connect(stop.signal));
    const reason = new Error("given up");
    seen(reason);
    stop.abort(reason);
    await connecting;
  }
});

test("many callers that wait on one signal cause no warning", LIMIT, async (t) => {
  const server = await start();
  const client = await openClient(t, server);
  await server.kill();
  await eventually(() => !client.isAlive());
  const warnings: Error[] = [];
  const onWarning = (warning: Error): void => void warnings.push(warning);
  process.on("warning", onWarning);
  t.after(() => process.off("warning", onWarning));
  const stop = new AbortController();
  const retry = connRetry("Redis", "trying", { signal: stop.signal, baseDelayMs: 60_000, maxDelayMs: 60_000 });
  const failing = retry(() => Promise.reject(new Error("not now")));
  const waiting = Array.from({ length: 20 }, (_, i) => rejection(i < 10 ? client.connect(stop.signal) : failing()));
  await new Promise(setImmediate); // a warning comes in a later turn
  stop.abort(new Error("enough"));
  for (const error of await Promise.all(waiting)) assert.match(error!.message, /enough|not now/);
  assert.deepEqual(warnings, []);
  await server.start();
});

test("an aborted task's blocking command ends with its connection, and takes no item later", LIMIT, async (t) => {
  const server = await start();
  const manager = manage<typeof Tasks>(t, server, ONE_LEASE);
  await popsAfterAnAbort(manager, server, "list");
});

test("a blocking command at a node of a Cluster ends with all connections of the lease", LIMIT, async (t) => {
  const cluster = await Cluster.start();
  const server = cluster.masters[1]!;
  const manager = manage<typeof Tasks>(t, server, { ...ONE_LEASE, redis: cluster.redis });
  cluster.watch(t);
  await popsAfterAnAbort(manager, server, cluster.keyOn(1));
});

async function popsAfterAnAbort(
  manager: ConnectionManager<typeof Tasks>,
  server: RedisServer,
  list: string,
): Promise<void> {
  const stop = new AbortController();
  const popping = rejection(manager.run("pop", list, { signal: stop.signal }));
  await server.waitForClients((clients) => clients.some(({ cmd }) => cmd === "blpop"));
  stop.abort(new Error("enough"));
  await popping;
  await server.waitForClients((clients) => clients.every(({ cmd }) => cmd !== "blpop"));
  await server.admin.lpush(list, "item");
  assert.deepEqual(await manager.run("pop", list), [list, "item"]);
}

test(
  "a command that would block after the abort is not sent, and the next holder may block again",
  LIMIT,
  async (t) => {
    const server = await start();
    const manager = manage<typeof Tasks>(t, server, ONE_LEASE);
    await popsLate(manager, server, "list");
  },
);

test("it is not sent either after the former holder of the client has released it once more", LIMIT, async (t) => {
  const server = await start();
  const manager = manage<typeof Tasks>(t, server, ONE_LEASE);
  assert.deepEqual(await manager.run("popBehindAnother", "list", { timeoutMs: 20_000 }), [true, "REDTHREAD_NOT_SENT"]);
});

test("in a Cluster it is not sent either, whatever node it would go to", LIMIT, async (t) => {
  const cluster = await Cluster.start();
  const server = cluster.masters[1]!;
  const manager = manage<typeof Tasks>(t, server, { ...ONE_LEASE, redis: cluster.redis });
  cluster.watch(t);
  await popsLate(manager, server, cluster.keyOn(1));
});

async function popsLate(manager: ConnectionManager<typeof Tasks>, server: RedisServer, list: string): Promise<void> {
  const stop = new AbortController();
  const popping = rejection(manager.run("popLate", list, { signal: stop.signal }));
  await eventually(() => manager.stats().threads[0]?.dedicated.out === 1, 20_000);
  stop.abort(new Error("enough"));
  await popping;
  const told = async (): Promise<string | false> => (await server.admin.get(`{${list}}:told`)) ?? false;
  assert.deepEqual(JSON.parse(await eventually(told, 20_000, "nothing blocks")), [
    "REDTHREAD_NOT_SENT",
    "REDTHREAD_NOT_SENT",
    "REDTHREAD_NOT_SENT",
    0,
  ]);
  await server.admin.lpush(list, "item");
  assert.deepEqual(await manager.run("pop", list), [list, "item"]);
}

test("a process waits for a command that waits for Redis", LIMIT, async (t) => {
  const server = await start();
  const program = new Program(t, "awaiting", [String(server.port)]);
  await program.hears("connected");
  await server.kill();
  const { outcome } = await program.hears("outcome");
  assert.match(String(outcome), /^REDTHREAD_/);
  assert.equal((await program.exit).code, 0);
});
