import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as SyncTasks from "../fixtures/worn-sync-tasks.js";
import type * as Tasks from "../fixtures/worn-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

type Manager = ConnectionManager<typeof Tasks>;

interface Wearing {
  readonly manager: Manager;
  /** The fields of each line "thread is recycled", and the messages of all errors. */
  readonly recycled: Record<string, unknown>[];
  readonly errors: string[];
}

async function wearing(t: TestContext, threads: ManagerOptions["threads"]): Promise<Wearing> {
  const recycled: Record<string, unknown>[] = [];
  const errors: string[] = [];
  const info = (message: string, fields: object = {}): void => {
    if (message === "thread is recycled") recycled.push({ ...fields });
  };
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("worn-tasks"),
    threads: { startTimeoutMs: 30_000, ...threads },
    logger: { ...silent, info, error: (message) => errors.push(message) },
  });
  await manager.ready();
  return { manager, recycled, errors };
}

const threadsIn = (manager: Manager, wanted: string) => manager.stats().threads.filter(({ state }) => state === wanted);
const count = async (key: string): Promise<number> => Number(await server.admin.get(key));
const settledBy = (manager: Manager, tasks: number) =>
  manager.stats().threads.some(({ state, done }) => state === "ready" && done >= tasks);

/** The most connections that the process had at once during `work`, by CLIENT LIST. */
async function mostConnections(work: Promise<unknown>): Promise<number> {
  let most = 0;
  let done = false;
  const finished = work.finally(() => (done = true));
  while (!done) most = Math.max(most, (await server.clients()).length);
  await finished;
  return most;
}

test("1 000 tasks in threads that are replaced every 50: each runs once, none fails, and no thread is missing", async (t) => {
  const { manager, recycled, errors } = await wearing(t, { count: 2, maxTasks: 50 });
  let left = 1_000;
  const caller = async (): Promise<void> => {
    while (left-- > 0) {
      await manager.run("add", "added");
      // Threads serve until their replacement is ready: without this a fast caller would end before the third replacement.
      if (settledBy(manager, 50)) await eventually(() => !settledBy(manager, 50), 30_000, "the worn thread retires");
    }
  };
  const callers = Promise.all(Array.from({ length: 8 }, caller));
  const most = await mostConnections(callers);
  await eventually(() => manager.stats().threads.length === 2);
  const replaced = manager.stats().recycled;
  t.diagnostic(`${replaced} threads replaced, at most ${most} connections`);
  assert.equal(await count("added"), 1_000);
  assert.ok(replaced >= 15, `${replaced} recyclings`);
  assert.ok(most <= 2 + 1 + 1, `${most} connections: a thread client each, a replacement's, the primary`);
  assert.deepEqual(errors, []);
  assert.equal(recycled.length, replaced);
  assert.ok(recycled.every(({ reason, tasks }) => reason === "maxTasks" && Number(tasks) >= 50));
  assert.deepEqual([await count("setups"), await count("teardowns")], [replaced + 2, replaced]);
});

test("a retiring thread finishes its tasks, exclusive tasks too, while its replacement serves", async (t) => {
  const { manager } = await wearing(t, { count: 1, maxTasks: 1 });
  const { threadId: worn } = manager.stats().threads[0]!;
  const running = manager.run("wait", { started: "running", until: "go" });
  await eventually(async () => (await count("running")) === 1);
  const exclusive = manager.run("wait", { started: "alone", until: "go on" }, { exclusive: true });
  // The thread is reserved for it behind the running task, before this result makes the thread worn.
  await server.admin.set("go", 1);
  assert.equal(await running, worn);
  await eventually(async () => (await count("alone")) === 1);
  await eventually(() => threadsIn(manager, "closing").length === 1 && threadsIn(manager, "ready").length === 1);
  const [closing] = threadsIn(manager, "closing");
  assert.deepEqual([closing!.threadId, closing!.running], [worn, 1]);
  assert.equal(manager.health().ready, true);
  await manager.ready();
  const fresh = await manager.run("add", "added");
  assert.notEqual(fresh, worn);
  // One at a time: the new thread is worn by now as well, and waits for its turn.
  assert.equal(manager.stats().threads.length, 2);
  assert.equal(manager.stats().recycled, 0);
  await server.admin.set("go on", 1);
  assert.equal(await exclusive, worn);
  await eventually(() => manager.stats().recycled === 2);
  assert.notEqual(await manager.run("add", "added"), fresh);
});

for (const leak of ["leak", "leakBytes"] as const) {
  test(`a thread that outgrows maxHeapMb is replaced, and none of its tasks fails: ${leak}`, async (t) => {
    const { manager, recycled, errors } = await wearing(t, { count: 1, maxHeapMb: 64 });
    const { threadId: first } = manager.stats().threads[0]!;
    let ranIn = first;
    let leaked = 0;
    while (ranIn === first) {
      const { threadId, heapMb } = manager.stats().threads[0]!;
      assert.ok(leaked < 1_000, `${leaked} MB leaked, ${heapMb} MB seen`);
      // The replacement takes longer to start than many tasks.
      if (heapMb > 64 && threadId === first) await eventually(() => manager.stats().recycled === 1, 30_000, "replaced");
      ranIn = await manager.run(leak, 8);
      leaked += 8;
    }
    await eventually(() => manager.stats().recycled >= 1);
    const [line] = recycled;
    assert.deepEqual([line!["threadId"], line!["reason"]], [first, "maxHeapMb"]);
    assert.ok(Number(line!["heapMb"]) > 64);
    assert.deepEqual(errors, []);
  });
}

test("a retiring thread whose loop is busy still has its synchronous client in its teardown", async (t) => {
  const manager = manage<typeof SyncTasks>(t, server, {
    tasks: fixture("worn-sync-tasks"),
    threads: { count: 1, maxTasks: 1, startTimeoutMs: 30_000 },
    shutdown: { closeMs: 10_000 },
  });
  await manager.run("used", "used");
  await eventually(() => manager.stats().recycled === 1, 30_000, "the thread is replaced");
  assert.deepEqual([await count("used"), await count("teardowns")], [1, 1]);
});

test("a retiring thread that dies fails only its own tasks, and is not replaced twice", async (t) => {
  const { manager, errors } = await wearing(t, { count: 1, maxTasks: 1 });
  const lost = manager.run("wait", { started: "running", until: "never" });
  const died = assert.rejects(lost, code("THREAD_DIED"));
  await eventually(async () => (await count("running")) === 1);
  const { threadId } = manager.stats().threads[0]!;
  const dying = assert.rejects(manager.run("dieOn", "die"), code("THREAD_DIED"));
  await manager.run("add", "added");
  await eventually(() => threadsIn(manager, "closing").length === 1 && threadsIn(manager, "ready").length === 1);
  await server.admin.set("die", 1);
  await Promise.all([died, dying]);
  await eventually(() => manager.stats().threads.every((thread) => thread.threadId !== threadId));
  assert.deepEqual(errors, ["thread died"]);
  assert.equal(manager.stats().threads.length, 1);
  assert.equal(manager.stats().recycled, 0);
});

test("a shutdown while a thread is recycled waits for its tasks and closes both threads", async (t) => {
  const { manager, errors } = await wearing(t, { count: 1, maxTasks: 1 });
  const running = manager.run("wait", { started: "running", until: "go" });
  await eventually(async () => (await count("running")) === 1);
  await manager.run("add", "added");
  await eventually(() => threadsIn(manager, "closing").length === 1 && threadsIn(manager, "ready").length === 1);
  const done = manager.shutdown({ drainMs: 30_000 });
  await server.admin.set("go", 1);
  await running;
  const { threads, tasks } = await done;
  assert.deepEqual(tasks, { finished: 1, abandoned: 0 });
  assert.deepEqual(
    threads.map(({ outcome }) => outcome),
    ["graceful", "graceful"],
  );
  assert.deepEqual([await count("setups"), await count("teardowns")], [2, 2]);
  assert.deepEqual(errors, []);
});

test("a thread that becomes worn while the shutdown drains is not recycled", async (t) => {
  const { manager } = await wearing(t, { count: 1, maxTasks: 1 });
  const running = manager.run("wait", { started: "running", until: "go" });
  const beside = manager.run("wait", { started: "running", until: "go on" });
  await eventually(async () => (await count("running")) === 2);
  const done = manager.shutdown({ drainMs: 30_000 });
  await server.admin.set("go", 1);
  await running;
  assert.equal(manager.stats().threads.length, 1);
  await server.admin.set("go on", 1);
  await beside;
  assert.equal((await done).threads.length, 1);
});

test("a shutdown while the replacement is set up leaves neither of the two threads", async (t) => {
  const { manager } = await wearing(t, { count: 1, maxTasks: 1 });
  await server.admin.set("hold setup", 1);
  await manager.run("add", "added");
  await eventually(() => threadsIn(manager, "starting").length === 1);
  await eventually(async () => (await count("setups")) === 2);
  assert.equal(threadsIn(manager, "ready").length, 1);
  assert.equal(typeof (await manager.run("add", "added")), "number");
  const { threads } = await manager.shutdown({ closeMs: 500 });
  assert.equal(threads.length, 2);
});
