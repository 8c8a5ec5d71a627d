import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { ManagerOptions } from "../../src/index.js";
import type * as DedicatedTasks from "../fixtures/dedicated-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

const THREADS = 3;
const MAX = 4;

function leasing(t: TestContext, options: Partial<ManagerOptions> = {}) {
  return manage<typeof DedicatedTasks>(t, server, { tasks: fixture("dedicated-tasks"), ...options });
}

/** The most dedicated connections that one thread had at once, by CLIENT LIST, while `work` ran. */
async function mostPerThread(work: Promise<unknown>): Promise<number> {
  let most = 0;
  let done = false;
  const finished = work.finally(() => (done = true));
  while (!done) {
    const names = (await server.clients()).map(({ name }) => name).filter((name) => name.endsWith(":dedicated"));
    for (const name of names) most = Math.max(most, names.filter((other) => other === name).length);
  }
  await finished;
  return most;
}

test("a thousand leases of every kind: never more clients than max, never a dirty one, exact counters", async (t) => {
  const manager = leasing(t, { threads: { count: THREADS }, dedicated: { max: MAX } });
  await manager.ready();
  const uses = await manager.run("uses");
  const startedAt = performance.now();
  const outcomes: PromiseSettledResult<void>[] = [];
  const leases = Array.from({ length: 1_000 }, (_, i) => {
    const use = uses[i % uses.length]!;
    return manager.run(i % 2 === 0 ? "lease" : "leaseUsing", use);
  });
  const most = await mostPerThread(Promise.allSettled(leases).then((settled) => outcomes.push(...settled)));
  t.diagnostic(`${Math.round(performance.now() - startedAt)} ms, at most ${most} of ${MAX} per thread`);

  const usesThat = (prefix: string): number =>
    Array.from(outcomes, (_, i) => uses[i % uses.length]!).filter((use) => use.startsWith(prefix)).length;
  const failures = outcomes.filter(({ status }) => status === "rejected") as PromiseRejectedResult[];
  const unexpected = failures.filter(({ reason }) => (reason as { code?: string }).code !== "IN_THE_MIDDLE");
  assert.deepEqual(unexpected, []);
  assert.equal(failures.length, usesThat("throw"));
  assert.ok(most > 0 && most <= MAX, `${most} connections at once in a thread`);
  assert.equal(Number(await server.admin.get("counter")), usesThat("add"));
  assert.equal(await server.admin.get("never written"), null);
  await eventually(() =>
    manager.stats().threads.every(({ dedicated }) => dedicated.out === 0 && dedicated.waiting === 0),
  );
  await eventually(async () => {
    const counts = await Promise.all(Array.from({ length: THREADS }, () => manager.run("countUnsettled")));
    return counts.every((count) => count === 0);
  });
});

test("a client that comes back clean is lent again: no other is opened", async (t) => {
  const manager = leasing(t, { threads: { count: 1 }, dedicated: { max: MAX } });
  await manager.ready();
  const receivedBefore = await connectionsReceived();
  for (let i = 0; i < 50; i++) await manager.run("lease", "add");
  const clients = (await server.clients()).filter(({ name }) => name.endsWith(":dedicated"));
  assert.equal(clients.length, 1);
  assert.equal((await connectionsReceived()) - receivedBefore, 1);
});

async function connectionsReceived(): Promise<number> {
  return Number(/total_connections_received:(\d+)/.exec(await server.admin.info("stats"))![1]);
}

test("a client given back with a pending pop is closed at once, and its place is free for the next one", async (t) => {
  const manager = leasing(t, {
    threads: { count: 1 },
    dedicated: { max: 1, acquireTimeoutMs: 2_000 },
    shutdown: { closeMs: 20_000 }, // a QUIT would wait for so long behind a pop that never ends
  });
  await manager.run("lease", "leaveBlocked");
  await manager.run("lease", "add");
  await eventually(async () => (await manager.run("countUnsettled")) === 0);
});

test("a caller that waits longer than the budget gets an error with the numbers of the pool", async (t) => {
  const manager = leasing(t, {
    threads: { count: 1 },
    dedicated: { max: 1, acquireTimeoutMs: 2_000 }, // it bounds the connect of the first client, too
    redis: { commandTimeoutMs: 60_000 },
  });
  await manager.ready();
  await server.admin.call("CLIENT", "PAUSE", "60000", "WRITE");
  const holder = manager.run("lease", "add");
  await eventually(() => manager.stats().threads[0]!.dedicated.out === 1);
  await assert.rejects(manager.run("lease", "add"), (error: Error & Record<string, unknown>) => {
    assert.ok(code("ACQUIRE_TIMEOUT")(error), String(error));
    assert.deepEqual([error["phase"], error["out"], error["max"]], ["wait", 1, 1]);
    return true;
  });
  await server.admin.call("CLIENT", "UNPAUSE");
  await holder;
});

test("while Redis is down, an expired acquire names the failed connect as its cause", async (t) => {
  const own = await startRedis();
  const manager = manage<typeof DedicatedTasks>(t, own, {
    tasks: fixture("dedicated-tasks"),
    dedicated: { acquireTimeoutMs: 2_000 }, // long enough for the first connect of a new thread on a busy machine
    retry: { baseDelayMs: 5, maxDelayMs: 20 },
  });
  t.after(() => own.stop());
  await manager.ready();
  await own.kill();
  await assert.rejects(manager.run("lease", "add"), (error: Error) => {
    assert.ok(code("ACQUIRE_TIMEOUT")(error), String(error));
    // Either this thread saw the refusal itself, or it waits while another thread probes.
    assert.ok(code("CONNECT_FAILED")(error.cause) || code("CIRCUIT_OPEN")(error.cause), String(error.cause));
    return true;
  });
  await own.start();
  await eventually(() => manager.run("lease", "add")); // the next probe may be further off than 300 ms
});
