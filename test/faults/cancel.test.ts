import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { oneInEach } from "../support/one-in-each.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function managed(t: TestContext, options: Partial<ManagerOptions> = {}): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, {
    tasks: fixture("tasks"),
    shutdown: { cancelGraceMs: 100 },
    ...options,
  });
}

const ready = (manager: ConnectionManager<typeof Tasks>, count: number) =>
  eventually(() => manager.stats().threads.filter(({ state }) => state === "ready").length === count);

test("a thread that spins after its task's timeout is ended: its other tasks get the reason, other threads go on", async (t) => {
  const manager = managed(t, { threads: { count: 2 } });
  await manager.ready();
  const { outcomes, until } = await oneInEach(manager, server, (keys) => manager.run("stubborn", keys));
  await assert.rejects(manager.run("spin", "spinning", { timeoutMs: 300 }), code("TASK_TIMEOUT"));
  await ready(manager, 2);
  await server.admin.set(until, "yes");
  const [lost, kept] = (await outcomes).toSorted((a) => (a.status === "rejected" ? -1 : 1));
  assert.ok(lost?.status === "rejected" && code("THREAD_DIED")(lost.reason));
  assert.ok(code("TASK_TIMEOUT")((lost.reason as Error).cause));
  assert.deepEqual(kept, { status: "fulfilled", value: "yes" });
});

test("an exclusive task that ignores its signal costs its thread after the grace", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  await manager.ready();
  const { threadId } = manager.stats().threads[0]!;
  const stop = new AbortController();
  const deaf = manager.run("stubborn", { started: "deaf", until: "never" }, { exclusive: true, signal: stop.signal });
  await eventually(async () => (await server.admin.get("deaf")) === "1");
  stop.abort();
  await assert.rejects(deaf, code("TASK_ABORTED"));
  await eventually(() => manager.stats().threads.some((thread) => thread.threadId !== threadId));
  await ready(manager, 1);
  assert.equal(await manager.run("echo", 1), 1);
});

test("a task that ignores its signal but does not block keeps its thread, because other tasks run beside it", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  await manager.ready();
  const deaf = manager.run("stubborn", { started: "breathing", until: "breathe" }, { timeoutMs: 200 });
  const beside = manager.run("waitForKey", "breathe");
  await assert.rejects(deaf, code("TASK_TIMEOUT"));
  // Longer than the grace, by the clock of the grace.
  await new Promise((resolve) => setTimeout(resolve, 300));
  await server.admin.set("breathe", "yes");
  assert.equal(await beside, "yes");
});

test("a cooperative task never costs its thread", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  await manager.ready();
  const beside = manager.run("waitForKey", "blocked:done");
  const blocked = manager.run("block", 1_000, { timeoutMs: 100, cancel: "cooperative" });
  await assert.rejects(blocked, code("TASK_TIMEOUT"));
  await server.admin.set("blocked:done", "yes");
  assert.equal(await beside, "yes");
});
