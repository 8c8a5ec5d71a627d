import assert from "node:assert/strict";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { setImmediate } from "node:timers/promises";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as IdleTasks from "../fixtures/idle-tasks.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis, type ListedClient, type RedisServer } from "../support/redis-server.js";

const THREADS = 3;

type Manager = ConnectionManager<typeof IdleTasks>;

/** Every thread is connected, and no task has run yet. */
async function idle(t: TestContext, redis: ManagerOptions["redis"] = {}): Promise<[Manager, RedisServer]> {
  const server = await startRedis();
  const manager = manage<typeof IdleTasks>(t, server, {
    tasks: fixture("idle-tasks"),
    threads: { count: THREADS },
    retry: { maxDelayMs: 100 },
    redis: { port: server.port, ...redis },
  });
  t.after(() => server.stop());
  await manager.ready();
  assert.equal((await server.clients()).length, THREADS + 1);
  return [manager, server];
}

/** Waits until the threads have reconnected by themselves: no task was run meanwhile. */
async function allBack(manager: Manager, server: RedisServer, gone: ReadonlySet<string>): Promise<void> {
  const areBack = (clients: ListedClient[]): boolean =>
    clients.filter(({ name, id }) => name.endsWith(":thread") && !gone.has(id)).length === THREADS;
  await server.waitForClients(areBack, 10_000, "every thread's client is back");
  for (const { done, failed, acquires } of manager.stats().threads) {
    assert.deepEqual({ done, failed, acquires }, { done: 0, failed: 0, acquires: 1 });
  }
  const results = await Promise.all(Array.from({ length: 10 * THREADS }, () => manager.run("incr", "after")));
  assert.equal(Math.max(...results), 10 * THREADS);
}

test("when Redis restarts while the threads are idle, their clients are back before any task asks", async (t) => {
  const [manager, server] = await idle(t);
  await server.restart();
  await allBack(manager, server, new Set()); // a new server begins its ids anew
  assert.ok(manager.stats().threads.every(({ reconnects }) => reconnects >= 1));
});

test("when every client is killed while the threads are idle, all are back before any task asks", async (t) => {
  const [manager, server] = await idle(t);
  for (let round = 1; round <= 3; round++) {
    const gone = new Set((await server.clients()).map(({ id }) => id));
    await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    const areBack = (clients: ListedClient[]): boolean =>
      clients.filter(({ id }) => !gone.has(id)).length === THREADS + 1;
    await server.waitForClients(areBack, 10_000, `all are back, round ${round}`);
  }
  await allBack(manager, server, new Set());
  // Fewer than the kills if a kill hit a connection before its first answer: that attempt was not a reconnect yet.
  assert.ok(manager.stats().threads.every(({ reconnects }) => reconnects >= 1 && reconnects <= 3));
  assert.equal(await (await manager.getRedis()).get("after"), String(10 * THREADS));
});

test("a task that comes before its thread has noticed the kill does not fail either", async (t) => {
  const [manager, server] = await idle(t, { idleCheckMs: 0 }); // a PING before each use
  for (let round = 0; round < 10; round++) {
    // A kill between a reconnect's first answer and the task would rightly be REPLY_LOST, so all come to rest first.
    await eventually(() => manager.stats().connections.open === THREADS + 1);
    const killed = new Set((await server.clients()).map(({ id }) => id));
    await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    await Promise.all(Array.from({ length: THREADS }, () => manager.run("incr", "right after", { exclusive: true })));
    await server.waitForClients((clients) => clients.filter(({ id }) => !killed.has(id)).length === THREADS + 1);
  }
  assert.equal(await server.admin.get("right after"), String(10 * THREADS));
});

test("a command sent in the turn in which the connection was lost is answered on the next connection", async (t) => {
  const [manager] = await idle(t);
  assert.equal(await manager.run("pingAfterLoss", undefined), "PONG");
  await setImmediate(); // only the close events of the turn are still to come
  const { stream } = await manager.getRedis();
  const closed = once(stream, "close");
  stream.destroy();
  await closed;
  assert.equal(await (await manager.getRedis()).ping(), "PONG");
});

test("a subscription that a thread holds through the restart hears what is published after it", async (t) => {
  const [manager, server] = await idle(t);
  // Exclusive tasks of one turn go to one thread each.
  const alone = { exclusive: true };
  await Promise.all(Array.from({ length: THREADS }, () => manager.run("subscribe", "news", alone)));
  const areSubscribed = async (): Promise<boolean> => {
    const [, count] = (await server.admin.pubsub("NUMSUB", "news")) as [string, number];
    return count === THREADS;
  };
  assert.ok(await areSubscribed());
  await server.restart();
  await eventually(areSubscribed, 10_000);
  await server.admin.publish("news", "after the restart");
  const heard = await Promise.all(Array.from({ length: THREADS }, () => manager.run("next", undefined, alone)));
  assert.deepEqual(
    heard,
    Array.from({ length: THREADS }, () => "after the restart"),
  );
  await Promise.all(Array.from({ length: THREADS }, () => manager.run("release", undefined, alone)));
});
