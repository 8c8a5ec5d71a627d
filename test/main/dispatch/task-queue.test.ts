import assert from "node:assert/strict";
import { test } from "node:test";
import { Ledger } from "../../../src/link/ledger.js";
import { TaskRun, type RunOptions } from "../../../src/main/dispatch/task-run.js";
import { ThreadWork } from "../../../src/main/dispatch/thread-work.js";
import { type Expected, CostEstimator } from "../../../src/main/dispatch/cost-estimator.js";
import { TaskQueue } from "../../../src/main/dispatch/task-queue.js";
import { Thread } from "../../../src/main/threads/thread.js";

function job(name: string, id: number, options: RunOptions = {}): TaskRun {
  return new TaskRun(id, name, undefined, options, { resolve() {}, reject() {} });
}

const drained = (queue: TaskQueue): string[] => [...queue.drain()].map(({ name, id }) => `${name}${id}`);

test("of one name the oldest task comes first, and names take turns", () => {
  const queue = new TaskQueue();
  for (let id = 1; id <= 4; id++) queue.push(job("a", id));
  queue.push(job("b", 5));
  queue.push(job("b", 6));
  queue.push(job("c", 7));
  assert.deepEqual(drained(queue), ["a1", "b5", "c7", "a2", "b6", "a3", "a4"]);
  assert.equal(queue.peek(), undefined);
});

test("a higher priority comes first, whatever its name and age", () => {
  const queue = new TaskQueue();
  queue.push(job("a", 1));
  queue.push(job("a", 2, { priority: 5 }));
  queue.push(job("b", 3, { priority: -1 }));
  queue.push(job("b", 4, { priority: 5 }));
  assert.deepEqual(drained(queue), ["a2", "b4", "a1", "b3"]);
});

test("who gave up is passed over", () => {
  const queue = new TaskQueue();
  const gone = job("a", 1);
  queue.push(gone);
  queue.push(job("a", 2));
  gone.fail(new Error());
  assert.equal(queue.peek()!.id, 2);
});

test("what a dead thread had not read goes before all others of its name", () => {
  const queue = new TaskQueue();
  for (let id = 1; id <= 3; id++) queue.push(job("a", id));
  queue.shift();
  queue.unshift(job("a", 1));
  assert.deepEqual(drained(queue), ["a1", "a2", "a3"]);
});

test("a hundred thousand tasks go through in their order", () => {
  const queue = new TaskQueue();
  for (let id = 0; id < 100_000; id++) queue.push(job("a", id));
  let expected = 0;
  for (const { id } of queue.drain()) assert.equal(id, expected++);
  assert.equal(expected, 100_000);
});

test("the expected loop time of a name follows what its tasks took, and is long for one that is not known", () => {
  const pace = new CostEstimator();
  const { busyMs } = pace.of("quick");
  pace.measured(new Set(["quick"]), 0.01, false);
  assert.equal(pace.of("quick").busyMs, 0.01);
  assert.ok(busyMs >= 1);
  for (let i = 0; i < 50; i++) pace.measured(new Set(["quick"]), 1, false);
  assert.ok(Math.abs(pace.of("quick").busyMs - 1) < 0.01);
  assert.equal(pace.of("other").busyMs, busyMs);
});

test("a name's tasks count as immediate once none of many messages had one that waited, and no longer after one", () => {
  const pace = new CostEstimator();
  const areImmediate = (): boolean => pace.of("quick").isImmediate;
  assert.equal(areImmediate(), false);
  pace.measured(new Set(["quick"]), 0.01, true);
  assert.equal(areImmediate(), false, "one message is none too many");
  for (let i = 0; i < 20; i++) pace.measured(new Set(["quick", "other"]), 0.01, true);
  pace.measured(new Set(["quick"]), 0.01, undefined);
  assert.equal(areImmediate(), true);
  pace.measured(new Set(["quick"]), 0.01, false);
  assert.equal(areImmediate(), false);
  assert.equal(pace.of("other").isImmediate, true);
});

test("tasks that wait for nothing are sent ahead, but not beside one that may keep its place, and not without end", () => {
  const ledger = new Ledger(1);
  const thread = new Thread(1, ledger.row(ledger.take()));
  thread.becameReady();
  const load = new ThreadWork(thread, 2);
  const immediate = { busyMs: 0.001, isImmediate: true };
  const waiting = { busyMs: 0.001, isImmediate: false };
  const fill = (expected: Expected): number => {
    for (; load.hasRoom(expected); ids++) load.give(job("a", ids), expected);
    return load.size;
  };
  let ids = 2;
  const first = job("a", 1);
  load.give(first, waiting);
  assert.equal(fill(immediate), 2);
  load.remove(first);
  assert.equal(fill(immediate), 256);
  assert.equal(load.hasRoom(waiting), false);
  for (const one of Array.from(load.runs)) load.remove(one);
  assert.equal(fill({ busyMs: 0.125, isImmediate: true }), 4);
});

test("of names without end only the last thousand are remembered, and one that goes on running is", () => {
  const pace = new CostEstimator();
  const unknown = pace.of("never seen");
  for (let i = 0; i < 5_000; i++) pace.measured(new Set(["steady", `job-${i}`]), 1, true);
  assert.equal(pace.of("job-0"), unknown);
  assert.equal(pace.of("job-4000"), unknown);
  assert.equal(pace.of("job-4999").busyMs, 1);
  assert.equal(pace.of("steady").isImmediate, true);
});
