import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { ManagerOptions } from "../../src/index.js";
import type * as FaultTasks from "../fixtures/sync-fault-tasks.js";
import type * as SyncTasks from "../fixtures/sync-tasks.js";
import { aheadOfTime } from "../support/clock.js";
import { eventually } from "../support/gate.js";
import { listenMutely } from "../support/hang-up.js";
import { code, fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { type ListedClient, startRedis, type RedisServer } from "../support/redis-server.js";
import { Tokens } from "../support/tokens.js";

/** Room for one synchronous connection, beside the thread's, the primary and the one that is kept for a rotation. */
const TIGHT = 4;
/** More than there are rows in the ledger or permits in the budget: whatever a death kept would be missed. */
const DEATHS = 6;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(async () => {
  await server.admin.call("CLIENT", "UNPAUSE");
  await server.admin.flushall();
});
after(() => server.stop());

function managing(t: TestContext, on: RedisServer, options: Partial<ManagerOptions> = {}) {
  return manage<typeof SyncTasks>(t, on, {
    tasks: fixture("sync-tasks"),
    connections: { max: TIGHT },
    retry: { baseDelayMs: 5, maxDelayMs: 20 },
    ...options,
    threads: { count: 1, ...options.threads },
  });
}

const isSync = ({ name }: ListedClient): boolean => name.endsWith(":sync");

const isInSet = (client: ListedClient): boolean => isSync(client) && client.cmd === "set";

/** Waits until a thread is blocked in a SET that the paused server does not answer. */
async function blocked(): Promise<ListedClient> {
  const clients = await server.waitForClients((all) => all.some(isInSet), 15_000, "a thread is blocked in SET");
  return clients.find(isInSet)!;
}

const pause = (): Promise<unknown> => server.admin.call("CLIENT", "PAUSE", "60000", "WRITE");

test("on a server that does not answer a call ends with COMMAND_TIMEOUT at its deadline, and the thread goes on", async (t) => {
  const manager = managing(t, server);
  await pause();
  const { failure, ms } = await manager.run("timedSet", { key: "key", timeoutMs: 500 });
  assert.equal((failure as { code: string }).code, "REDTHREAD_COMMAND_TIMEOUT");
  assert.equal((failure as { outcome: string }).outcome, "unknown");
  assert.ok(ms >= 500, `after ${ms} ms`);
  await server.admin.call("CLIENT", "UNPAUSE");
  assert.equal(await manager.run("call", ["PING"]), "PONG");
});

test("on a frozen server it does so too, and the connection is replaced when the server is back", async (t) => {
  const own = await startRedis();
  const manager = managing(t, own, { redis: { commandTimeoutMs: 500 } });
  t.after(() => own.stop());
  await manager.run("call", ["PING"]);
  own.freeze();
  await assert.rejects(manager.run("call", ["PING"]), code("COMMAND_TIMEOUT"));
  own.thaw();
  await eventually(async () => (await manager.run("call", ["PING"])) === "PONG", 15_000);
});

test("a connection killed under a call is REPLY_LOST, and the next call has a new one", async (t) => {
  const manager = managing(t, server);
  await manager.run("call", ["PING"]);
  await pause();
  const lost = assert.rejects(manager.run("call", ["SET", "key", 1]), (error: Error & { outcome?: string }) => {
    assert.ok(code("REPLY_LOST")(error), String(error));
    assert.equal(error.outcome, "unknown");
    return true;
  });
  const { id } = await blocked();
  await server.admin.call("CLIENT", "KILL", "ID", id);
  await lost;
  await server.admin.call("CLIENT", "UNPAUSE");
  assert.equal(await manager.run("call", ["GET", "key"]), null);
});

test("with Redis away a call waits until its deadline and is NOT_SENT; when it is back, calls work again", async (t) => {
  const own = await startRedis();
  const manager = managing(t, own, { redis: { commandTimeoutMs: 500 } });
  t.after(() => own.stop());
  await manager.run("call", ["PING"]);
  await own.kill();
  await eventually(
    () => manager.stats().connections.open === 0,
    5_000,
    "the loss is noticed: until then it is written",
  );
  await assert.rejects(manager.run("call", ["SET", "key", 1]), code("NOT_SENT"));
  await own.start();
  await eventually(async () => (await manager.run("call", ["PING"])) === "PONG", 15_000);
});

test("a thread that probes for Redis when it blocks in a call is no longer waited for: its helper finds out", async (t) => {
  const own = await startRedis();
  const manager = managing(t, own, { redis: { connectTimeoutMs: 60_000, commandTimeoutMs: 20_000 } });
  t.after(() => own.stop());
  await manager.run("outcomes", { way: "async", commands: [["PING"]] }); // the one connection, and so the prober
  await own.kill();
  await eventually(() => manager.stats().breaker.state !== "closed");
  const mute = await listenMutely(t, own.port);
  await eventually(() => mute.connections === 1 && manager.stats().breaker.state === "half-open", 10_000);
  const answer = manager.run("call", ["PING"]);
  await eventually(() => mute.accepted === 2, 15_000, "the helper probes");
  await mute.close();
  await own.start();
  assert.equal(await answer, "PONG");
});

test("a handshake of a thread that blocks in a call gives way to its helper's", async (t) => {
  const own = await startRedis();
  const manager = managing(t, own, {
    redis: { connectTimeoutMs: 60_000, commandTimeoutMs: 20_000 },
    connections: { connecting: 1 },
  });
  t.after(() => own.stop());
  await manager.run("outcomes", { way: "async", commands: [["PING"]] });
  await own.kill();
  await eventually(() => manager.stats().breaker.state !== "closed");
  const mute = await listenMutely(t, own.port);
  await eventually(() => mute.connections === 1, 10_000, "the thread's own handshake has the one permit");
  const answer = manager.run("call", ["PING"]);
  await eventually(() => mute.accepted === 2, 15_000, "the helper's handshake has it");
  await mute.close();
  await own.start();
  assert.equal(await answer, "PONG");
  await manager.run("outcomes", { way: "async", commands: [["PING"]] }); // the thread's own is back too
});

test("with whenDown fail it is refused at once instead", async (t) => {
  const own = await startRedis();
  const manager = managing(t, own, { redis: { whenDown: "fail" } });
  t.after(() => own.stop());
  await manager.run("call", ["PING"]);
  await own.kill();
  await eventually(() =>
    manager.run("call", ["SET", "key", 1]).then(
      () => false,
      (error: unknown) => code("CIRCUIT_OPEN")(error),
    ),
  );
  await own.start();
});

test("whatever goes wrong between a request and its answer is an error at once, and the helper goes on", async (t) => {
  const tasks = fixture("sync-fault-tasks");
  const manager = manage<typeof FaultTasks>(t, server, { tasks, threads: { count: 1 } });
  const given = (await manager.run("faults")).map(([name, error, goesOn]) => {
    const { code: actual, outcome } = error as { code?: string; outcome?: string };
    return [name, actual, outcome, goesOn];
  });
  const ran = ["function", "symbol", "deep", "getter", "large", "error", "thrownError"];
  const notSent = ["unreadable", "unreadable message", "unwritable"];
  assert.deepEqual(given, [
    ...ran.map((name) => [name, "REDTHREAD_NOT_CLONEABLE", "unknown", true]),
    ...notSent.map((name) => [name, "REDTHREAD_NOT_CLONEABLE", "not-sent", true]),
    ["unread reply", "REDTHREAD_NOT_CLONEABLE", "unknown", true],
  ]);
  assert.deepEqual([await server.admin.get("read"), await server.admin.exists("unreadable", "unwritable")], ["1", 0]);
});

test("a reply that its thread reads when its helper is told of the shutdown is the server's", async (t) => {
  const lines: [string, unknown][] = [];
  const info = (message: string, fields?: object): void => void lines.push([message, fields]);
  const manager = manage<typeof FaultTasks>(t, server, {
    tasks: fixture("sync-fault-tasks"),
    threads: { count: 1 },
    logger: { ...silent, info },
    shutdown: { cancelGraceMs: 4_000 }, // the helper is told after half of it, and the thread is not ended before
  });
  const reading = manager.run("readLate", 50_000).catch(() => {});
  await eventually(async () => (await server.admin.exists("late")) === 1, 15_000);
  await manager.shutdown({ drainMs: 0, closeMs: 10_000 });
  await reading;
  const [, said] = lines.find(([message]) => message === "the reply")!;
  assert.equal((said as { isWhole: boolean }).isWhole, true);
});

test("a helper that is killed under a call is REPLY_LOST, and the next call starts another, within the budget", async (t) => {
  const manager = managing(t, server);
  await manager.ready();
  for (let death = 1; death <= DEATHS; death++) {
    await pause();
    const running = manager.run("killHelper", `key:${death}`);
    await eventually(() => running.then(() => true));
    const { lost, again } = await running;
    assert.equal((lost as { code: string }).code, "REDTHREAD_REPLY_LOST");
    assert.equal(again, null);
    await server.admin.call("CLIENT", "UNPAUSE");
  }
  await server.waitForClients((clients) => clients.filter(isSync).length === 1);
  assert.equal(manager.stats().connections.open, (await server.clients()).length);
});

test("a thread that is ended while it is blocked in a call leaves no connection and no permit", async (t) => {
  const manager = managing(t, server, { shutdown: { cancelGraceMs: 50 } });
  await manager.ready();
  const advance = aheadOfTime(t);
  for (let death = 1; death <= DEATHS; death++) {
    await pause();
    advance(60_000); // as if it had served for long: a thread that dies young is replaced later each time
    const stop = new AbortController();
    const { signal } = stop;
    const ended = assert.rejects(manager.run("blockedSet", "key", { signal }), code("TASK_ABORTED"));
    await blocked();
    stop.abort();
    await ended;
    await server.waitForClients((clients) => !clients.some(isSync), 5_000, "its connection is gone");
    await server.admin.call("CLIENT", "UNPAUSE");
    assert.equal(await manager.run("call", ["PING"]), "PONG");
  }
  await eventually(async () => manager.stats().connections.open === (await server.clients()).length);
});

test("a thread that is blocked in a call at the shutdown is told SHUTTING_DOWN, and closes by itself", async (t) => {
  const ends: unknown[] = [];
  const info = (message: string, fields?: object): void => {
    if (message === "the call ended") ends.push((fields as { code: string }).code);
  };
  const manager = managing(t, server, { logger: { ...silent, info }, redis: { commandTimeoutMs: 60_000 } });
  await manager.run("call", ["PING"]);
  await pause();
  const running = assert.rejects(manager.run("blockedSet", "key"), code("TASK_ABORTED"));
  await blocked();
  const startedAt = performance.now();
  const { threads } = await manager.shutdown({ drainMs: 100, closeMs: 2_000 });
  assert.ok(performance.now() - startedAt < 100 + 2_000 + 500);
  await running;
  assert.deepEqual(ends, ["REDTHREAD_SHUTTING_DOWN"]);
  assert.deepEqual(
    threads.map(({ outcome }) => outcome),
    ["graceful"],
  );
  assert.deepEqual(await server.clients(), []);
});

test("a wrong password is AUTH_FAILED at once, and nobody to connect to CONNECT_FAILED at the deadline", async (t) => {
  const strict = await startRedis({ args: ["--requirepass", "right"], observer: { password: "right" } });
  const wrong = managing(t, strict, { redis: { password: "wrong" } });
  const nobody = managing(t, strict, { redis: { port: 1, commandTimeoutMs: 300 } });
  t.after(() => strict.stop());
  await assert.rejects(wrong.run("call", ["PING"]), code("AUTH_FAILED"));
  await assert.rejects(nobody.run("call", ["PING"]), code("CONNECT_FAILED"));
});

test("two threads share a budget with room for one: whose connection idles makes room for the other's", async (t) => {
  const manager = managing(t, server, { threads: { count: 2, concurrency: 1 }, connections: { max: 5 } });
  await manager.ready();
  const ask = (): Promise<unknown[][]> => Promise.all([manager.run("identify"), manager.run("identify")]);
  await eventually(async () => new Set((await ask()).map(([threadId]) => threadId)).size === 2, 15_000);
  for (let i = 0; i < 10; i++) await ask();
  await server.waitForClients((clients) => clients.filter(isSync).length === 1);
});

test("the helper logs in with the provider's credentials, and asks for fresh ones while its thread is blocked", async (t) => {
  const tokens = new Tokens(server);
  const manager = managing(t, server, { redis: { credentials: tokens.provider } });
  const first = await manager.run("call", ["ACL", "WHOAMI"]);
  assert.equal(first, tokens.newest);
  await tokens.revoke(tokens.newest); // and the server ends what it opened
  await eventually(async () => (await manager.run("call", ["ACL", "WHOAMI"])) !== first, 15_000);
  assert.equal(await manager.run("call", ["ACL", "WHOAMI"]), tokens.newest);
});
