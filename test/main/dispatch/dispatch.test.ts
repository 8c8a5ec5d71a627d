import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { MessagePort } from "node:worker_threads";
import type { ConnectionManager, ManagerOptions } from "../../../src/index.js";
import { CostEstimator } from "../../../src/main/dispatch/cost-estimator.js";
import type * as Tasks from "../../fixtures/tasks.js";
import { eventually } from "../../support/gate.js";
import { code, fixture, manage } from "../../support/manage.js";
import { collect } from "../../support/old-space.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

function managed(t: TestContext, threads: ManagerOptions["threads"]): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads });
}

const running = (manager: ConnectionManager<typeof Tasks>): number[] =>
  manager.stats().threads.map((thread) => thread.running);

function release(cell: Int32Array): void {
  Atomics.store(cell, 0, 1);
  Atomics.notify(cell, 0);
}

test("tasks that wait for each other all run, although none of their name has ended before", async (t) => {
  const manager = managed(t, { count: 1, concurrency: 8 });
  const tasks = Array.from({ length: 8 }, () => manager.run("stubborn", { started: "met", until: "all met" }));
  await eventually(async () => Number(await server.admin.get("met")) === 8);
  await server.admin.set("all met", 1);
  await Promise.all(tasks);
});

test("tasks that wait for each other all run, although the tasks before them computed for long", async (t) => {
  const manager = managed(t, { count: 1, concurrency: 8 });
  await server.admin.set("all met", 1);
  await manager.run("stubborn", { started: "alone", until: "all met" });
  await server.admin.del("all met");
  for (let i = 0; i < 3; i++) await manager.run("block", 20);
  const tasks = Array.from({ length: 8 }, () => manager.run("stubborn", { started: "met", until: "all met" }));
  await eventually(async () => Number(await server.admin.get("met")) === 8);
  await server.admin.set("all met", 1);
  await Promise.all(tasks);
});

test("the result of a task that computes for long does not wait for the next task", async (t) => {
  const manager = managed(t, { count: 1 });
  await manager.ready();
  for (let i = 0; i < 3; i++) await manager.run("block", 20);
  const cell = new Int32Array(new SharedArrayBuffer(4));
  const first = manager.run("block", 20);
  const second = manager.run("awaitCell", cell);
  await first;
  release(cell);
  assert.equal(await second, true);
});

test("the result of a task does not wait for the next where the tasks before them took no time", async (t) => {
  const manager = managed(t, { count: 1 });
  await manager.ready();
  for (let i = 0; i < 50; i++) await manager.run("whoAmI");
  const cells = [1, 2].map(() => new Int32Array(new SharedArrayBuffer(4)));
  const first = manager.run("awaitCell", cells[0]!);
  await new Promise((resolve) => setImmediate(resolve)); // so that the next task has a message of its own
  const second = manager.run("awaitCell", cells[1]!);
  await new Promise((resolve) => setImmediate(resolve));
  release(cells[0]!);
  assert.equal(await first, true);
  release(cells[1]!);
  assert.equal(await second, true); // it was released, and did not time out
});

test("a task that is given up before its turn in its thread does not begin", async (t) => {
  const manager = managed(t, { count: 1 });
  await manager.ready();
  for (let i = 0; i < 3; i++) await manager.run("block", 20);
  const cell = new Int32Array(new SharedArrayBuffer(4));
  const caller = new AbortController();
  const first = manager.run("awaitCell", cell);
  const second = manager.run("incr", "begun", { signal: caller.signal, cancel: "cooperative" });
  await eventually(() => running(manager)[0] === 2);
  caller.abort();
  await assert.rejects(second, code("TASK_ABORTED"));
  release(cell);
  await first;
  await eventually(() => running(manager)[0] === 0);
  assert.equal(await server.admin.get("begun"), null);
});

test("a thread never runs more than concurrency tasks at once", async (t) => {
  const manager = managed(t, { count: 2, concurrency: 3 });
  const tasks = Array.from({ length: 20 }, () => manager.run("stubborn", { started: "begun", until: "go" }));
  await eventually(() => running(manager).every((count) => count === 3));
  await eventually(async () => (await server.admin.get("begun")) === "6");
  assert.equal(manager.stats().queue.size, 14);
  await server.admin.set("go", 1);
  await Promise.all(tasks);
});

/** Resolves when the manager has sent the tasks of this turn. */
const dealt = (): Promise<void> => new Promise((resolve) => process.nextTick(resolve));

/** Runs this many tasks, one after another, that end as soon as they have begun. */
async function runAlone(run: () => Promise<unknown>): Promise<void> {
  for (let i = 0; i < 300; i++) await run();
}

test("tasks that wait for nothing are sent ahead: more of them share a message than a thread runs at once", async (t) => {
  const manager = managed(t, { count: 1, concurrency: 1 });
  await runAlone(() => manager.run("echo", 1));
  const posts = t.mock.method(MessagePort.prototype, "postMessage");
  const results = await Promise.all(Array.from({ length: 1_000 }, (_, i) => manager.run("echo", i)));
  assert.deepEqual(results, [...results.keys()]);
  assert.ok(posts.mock.callCount() < 500, `${posts.mock.callCount()} messages`);
});

test("of tasks that were sent ahead and then wait, a thread runs at most concurrency at once", async (t) => {
  const manager = managed(t, { count: 1, concurrency: 3 });
  const cell = new Int32Array(new SharedArrayBuffer(4));
  const waitIf = (signal?: AbortSignal): Promise<number> =>
    manager.run("waitIf", { cell, until: "go" }, signal && { signal, cancel: "cooperative" });
  const caller = new AbortController();
  let tasks: Promise<number>[];
  for (;;) {
    await server.admin.flushall();
    Atomics.store(cell, 0, 0);
    await runAlone(() => waitIf());
    Atomics.store(cell, 0, 1);
    tasks = [...Array.from({ length: 5 }, () => waitIf()), waitIf(caller.signal)];
    await dealt();
    if (running(manager)[0] === 6) break;
    await server.admin.set("go", 1); // a busy machine makes the tasks look long
    await Promise.all(tasks);
  }
  await eventually(async () => (await server.admin.get("begun")) === "3");
  caller.abort();
  await assert.rejects(tasks.pop()!, code("TASK_ABORTED"));
  await server.admin.set("go", 1);
  assert.equal(Math.max(...(await Promise.all(tasks))), 3);
  await eventually(() => running(manager)[0] === 0);
  assert.equal(await server.admin.get("begun"), "5", "the task that was given up before its turn did not begin");
});

test("the result of a task that was sent ahead does not wait for the next when they compute for long", async (t) => {
  const manager = managed(t, { count: 1, concurrency: 1 });
  const released = new Int32Array(new SharedArrayBuffer(4)).fill(1);
  for (;;) {
    await runAlone(() => manager.run("awaitCell", released));
    const cells = [1, 2].map(() => new Int32Array(new SharedArrayBuffer(4)));
    const [first, second] = cells.map((cell) => manager.run("awaitCell", cell));
    await dealt();
    const areAhead = running(manager)[0] === 2; // else a busy machine has made the tasks look long
    await new Promise((resolve) => setTimeout(resolve, 20)); // so that the first task has computed for long
    release(cells[0]!);
    assert.equal(await first, true);
    release(cells[1]!);
    assert.equal(await second, true, "it was released, and did not time out");
    if (areAhead) return;
  }
});

test("each message with results says whether one of its tasks has waited", async (t) => {
  const manager = managed(t, { count: 1 });
  const measured = t.mock.method(CostEstimator.prototype, "measured");
  const saidOf = async (...tasks: Promise<unknown>[]): Promise<(boolean | undefined)[]> => {
    measured.mock.resetCalls();
    await Promise.allSettled(tasks);
    return measured.mock.calls.map(({ arguments: [, , areImmediate] }) => areImmediate);
  };
  const setAndGet = { key: "a", value: "1" };
  assert.deepEqual(await saidOf(manager.run("echo", 1)), [true]);
  assert.deepEqual(await saidOf(manager.run("fail", "null")), [true]);
  assert.deepEqual(await saidOf(manager.run("bytes", 1)), [true]);
  assert.deepEqual(await saidOf(manager.run("echo", 1), manager.run("bytesLater", 1)), [true, false]);
  for (let i = 0; i < 255; i++) {
    assert.deepEqual(await saidOf(manager.run("setAndGet", setAndGet)), [undefined], "not every message is watched");
  }
  assert.deepEqual(await saidOf(manager.run("setAndGet", setAndGet)), [false]);
});

test("short tasks do not wait behind a long task while another thread has room", async (t) => {
  const manager = managed(t, { count: 2 });
  await manager.ready();
  await Promise.all(Array.from({ length: 20 }, () => manager.run("whoAmI"))); // the name is known as short
  const spinning = manager.run("spin", "spinning", { timeoutMs: 60_000 }).catch(() => {});
  await eventually(async () => (await server.admin.get("spinning")) === "1");
  const short = await Promise.all(Array.from({ length: 200 }, () => manager.run("whoAmI")));
  assert.equal(new Set(short.map(({ threadId }) => threadId)).size, 1);
  await manager.shutdown({ drainMs: 0, closeMs: 500 });
  await spinning;
});

test("a task that was taken back from a blocked thread runs once, also when that thread reads again", async (t) => {
  const manager = managed(t, { count: 2 });
  await manager.ready();
  await Promise.all(Array.from({ length: 20 }, () => manager.run("incr", "warm"))); // the name is known as short
  const blocked = manager.run("block", 1_500);
  await eventually(() => running(manager).includes(1));
  await Promise.all(Array.from({ length: 200 }, () => manager.run("incr", "once")));
  await blocked;
  // Both threads have read all messages that were sent before.
  await Promise.all([1, 2].map(() => manager.run("echo", 0, { exclusive: true })));
  assert.equal(await server.admin.get("once"), "200");
});

test("a task in a blocked thread is taken back also while the queue is empty", async (t) => {
  const manager = managed(t, { count: 2 });
  await manager.ready();
  await Promise.all(Array.from({ length: 20 }, () => manager.run("whoAmI"))); // the name is known as short
  const cells = [1, 2].map(() => new Int32Array(new SharedArrayBuffer(4)));
  const blocked = cells.map((cell) => manager.run("awaitCell", cell));
  await eventually(() => running(manager).every((count) => count === 1));
  const waiting = [1, 2].map(() => manager.run("whoAmI")); // one in each thread
  release(cells[0]!);
  await Promise.all(waiting);
  release(cells[1]!);
  assert.deepEqual(await Promise.all(blocked), [true, true]); // it was released, and did not time out
});

test("a task that was given up before it began in a blocked thread begins in no thread", async (t) => {
  const shutdown = { cancelGraceMs: 3_000 };
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 2 }, shutdown });
  await manager.ready();
  await Promise.all(Array.from({ length: 20 }, () => manager.run("incr", "warm"))); // the name is known as short
  const cells = [1, 2].map(() => new Int32Array(new SharedArrayBuffer(4)));
  const blocked: Promise<boolean>[] = [];
  const threads: number[] = [];
  for (const cell of cells) {
    blocked.push(manager.run("awaitCell", cell));
    await eventually(() => running(manager).filter((count) => count === 1).length === blocked.length);
    threads.push(running(manager).findIndex((count, at) => count === 1 && !threads.includes(at)));
  }
  const stop = new AbortController();
  const behind = manager.run("incr", "begun", { signal: stop.signal, awaitOutcome: true });
  await eventually(() => running(manager).includes(2));
  stop.abort();
  release(cells[threads[0] === running(manager).indexOf(2) ? 1 : 0]!); // the other thread
  await assert.rejects(behind, code("TASK_ABORTED"));
  for (const cell of cells) release(cell);
  await Promise.all(blocked);
  await Promise.all([1, 2].map(() => manager.run("echo", 0, { exclusive: true })));
  assert.equal(await server.admin.get("begun"), null);
});

for (const [where, cancelGraceMs] of Object.entries({ "was read": 3_000, "was not": 300 })) {
  test(`a task that is given up before its turn rejects as not-sent, where it ${where}`, async (t) => {
    const manager = manage<typeof Tasks>(t, server, {
      tasks: fixture("tasks"),
      threads: { count: 1 },
      shutdown: { cancelGraceMs },
    });
    await manager.ready();
    const cell = new Int32Array(new SharedArrayBuffer(4));
    const blocked = manager.run("awaitCell", cell);
    await eventually(() => running(manager)[0] === 1);
    const stop = new AbortController();
    const behind = manager.run("incr", "begun", { signal: stop.signal, awaitOutcome: true });
    await eventually(() => running(manager)[0] === 2);
    stop.abort();
    if (cancelGraceMs > 300) release(cell);
    await assert.rejects(behind, (error: { outcome?: unknown }) => {
      assert.equal(error.outcome, "not-sent");
      return code("TASK_ABORTED")(error);
    });
    release(cell);
    assert.equal(await blocked, true, "the thread was not ended because of messages that it had not read");
    assert.equal(await server.admin.get("begun"), null);
  });
}

test("callers of short tasks come to share messages, whenever each of them began", async (t) => {
  const manager = managed(t, { count: 1 });
  await manager.ready();
  const posts = t.mock.method(MessagePort.prototype, "postMessage");
  let isOver = false;
  let tasks = 0;
  const callers = Array.from({ length: 16 }, async (_, at) => {
    for (let turn = 0; turn < 100 * at; turn++) await new Promise((resolve) => setImmediate(resolve));
    for (; !isOver; tasks++) await manager.run("echo", at);
  });
  const tasksPerMessage = async (): Promise<number> => {
    const since = { posts: posts.mock.callCount(), tasks };
    await eventually(() => tasks >= since.tasks + 500);
    return (tasks - since.tasks) / (posts.mock.callCount() - since.posts);
  };
  await eventually(async () => (await tasksPerMessage()) >= 4);
  isOver = true;
  await Promise.all(callers);
});

test("a caller that waits for each task starts no timer that is shorter than the time of a blocked thread", async (t) => {
  const manager = managed(t, { count: 2 });
  await manager.ready();
  const now = performance.now();
  t.mock.method(performance, "now", () => now); // so that a busy machine does not make the thread look blocked
  const setTimer = t.mock.method(globalThis, "setTimeout");
  for (let i = 0; i < 500; i++) await manager.run("whoAmI");
  const delays = setTimer.mock.calls.map(({ arguments: [, ms = 0] }) => ms);
  setTimer.mock.restore();
  assert.ok(delays.length > 0);
  assert.deepEqual(
    delays.filter((ms) => ms < 50),
    [],
  );
});

test("tasks that a thread had not read when it was ended run in its successor", async (t) => {
  const manager = managed(t, { count: 1 });
  await manager.ready();
  const spinning = manager.run("spin", "spinning", { timeoutMs: 500 });
  await eventually(async () => (await server.admin.get("spinning")) === "1");
  const unread = manager.run("whoAmI");
  await assert.rejects(spinning, code("TASK_TIMEOUT"));
  assert.equal(typeof (await unread).threadId, "number");
});

test("a task of a higher priority overtakes the tasks that wait", async (t) => {
  const manager = managed(t, { count: 1, concurrency: 1 });
  await manager.ready();
  const first = manager.run("stubborn", { started: "first", until: "go" });
  await eventually(async () => (await server.admin.get("first")) === "1");
  const order: string[] = [];
  const note = (name: string) => (): number => order.push(name);
  const waiting = [
    manager.run("echo", 1).then(note("plain")),
    manager.run("echo", 2, { priority: -1 }).then(note("low")),
    manager.run("echo", 3, { priority: 1 }).then(note("high")),
  ];
  await server.admin.set("go", 1);
  await Promise.all([first, ...waiting]);
  assert.deepEqual(order, ["high", "plain", "low"]);
  await assert.rejects(manager.run("echo", 4, { priority: NaN }), code("CONFIG_INVALID"));
});

test("inputs are garbage once the next message to their thread is sent", async (t) => {
  const manager = managed(t, { count: 1 });
  await manager.ready();
  const given: WeakRef<object>[] = [];
  for (let i = 0; i < 100; i++) {
    const input = { i };
    given.push(new WeakRef(input));
    await manager.run("echo", input);
  }
  await new Promise(setImmediate);
  collect();
  const kept = given.filter((ref) => ref.deref()).length;
  assert.ok(kept <= 2, `${kept} of ${given.length} inputs are still referred to`);
});
