import assert from "node:assert/strict";
import { test } from "node:test";
import { Ledger } from "../../../src/link/ledger.js";
import { TaskRun, type RunOptions } from "../../../src/main/dispatch/task-run.js";
import { ThreadWork } from "../../../src/main/dispatch/thread-work.js";
import { type Expected, CostEstimator } from "../../../src/main/dispatch/cost-estimator.js";
import { TaskQueue } from "../../../src/main/dispatch/task-queue.js";
import { Thread } from "../../../src/main/threads/thread.js";

function run(name: string, id: number, options: RunOptions = {}): TaskRun {
  return new TaskRun(id, name, undefined, options, { resolve() {}, reject() {} });
}

const drained = (queue: TaskQueue): string[] => [...queue.drain()].map(({ name, id }) => `${name}${id}`);

test("of one name the oldest task comes first, and names take turns", () => {
  const queue = new TaskQueue();
  for (let id = 1; id <= 4; id++) queue.push(run("a", id));
  queue.push(run("b", 5));
  queue.push(run("b", 6));
  queue.push(run("c", 7));
  assert.deepEqual(drained(queue), ["a1", "b5", "c7", "a2", "b6", "a3", "a4"]);
  assert.equal(queue.peek(), undefined);
});

test("a higher priority comes first, whatever its name and age", () => {
  const queue = new TaskQueue();
  queue.push(run("a", 1));
  queue.push(run("a", 2, { priority: 5 }));
  queue.push(run("b", 3, { priority: -1 }));
  queue.push(run("b", 4, { priority: 5 }));
  assert.deepEqual(drained(queue), ["a2", "b4", "a1", "b3"]);
});

test("a task whose caller gave up is skipped", () => {
  const queue = new TaskQueue();
  const gone = run("a", 1);
  queue.push(gone);
  queue.push(run("a", 2));
  gone.fail(new Error());
  assert.equal(queue.peek()!.id, 2);
});

test("a task that a dead thread had not read goes before all others of its name", () => {
  const queue = new TaskQueue();
  for (let id = 1; id <= 3; id++) queue.push(run("a", id));
  queue.shift();
  queue.unshift(run("a", 1));
  assert.deepEqual(drained(queue), ["a1", "a2", "a3"]);
});

test("a hundred thousand tasks go through in their order", () => {
  const queue = new TaskQueue();
  for (let id = 0; id < 100_000; id++) queue.push(run("a", id));
  let expected = 0;
  for (const { id } of queue.drain()) assert.equal(id, expected++);
  assert.equal(expected, 100_000);
});

test("the expected loop time of a name follows its tasks, and is long for an unknown name", () => {
  const costs = new CostEstimator();
  const { busyMs } = costs.of("quick");
  costs.measured(new Set(["quick"]), 0.01, false);
  assert.equal(costs.of("quick").busyMs, 0.01);
  assert.ok(busyMs >= 1);
  for (let i = 0; i < 50; i++) costs.measured(new Set(["quick"]), 1, false);
  assert.ok(Math.abs(costs.of("quick").busyMs - 1) < 0.01);
  assert.equal(costs.of("other").busyMs, busyMs);
});

test("tasks count as immediate after many messages without a task that waited, until one waits", () => {
  const costs = new CostEstimator();
  const areImmediate = (): boolean => costs.of("quick").isImmediate;
  assert.equal(areImmediate(), false);
  costs.measured(new Set(["quick"]), 0.01, true);
  assert.equal(areImmediate(), false, "one message is not enough");
  for (let i = 0; i < 20; i++) costs.measured(new Set(["quick", "other"]), 0.01, true);
  costs.measured(new Set(["quick"]), 0.01, undefined);
  assert.equal(areImmediate(), true);
  costs.measured(new Set(["quick"]), 0.01, false);
  assert.equal(areImmediate(), false);
  assert.equal(costs.of("other").isImmediate, true);
});

test("immediate tasks are sent ahead, but not beside a task that may wait, and only so many", () => {
  const ledger = new Ledger(1);
  const thread = new Thread(1, ledger.row(ledger.take()));
  thread.becameReady();
  const work = new ThreadWork(thread, 2);
  const immediate = { busyMs: 0.001, isImmediate: true };
  const waiting = { busyMs: 0.001, isImmediate: false };
  const fill = (expected: Expected): number => {
    for (; work.hasRoom(expected); ids++) work.give(run("a", ids), expected);
    return work.size;
  };
  let ids = 2;
  const first = run("a", 1);
  work.give(first, waiting);
  assert.equal(fill(immediate), 2);
  work.remove(first);
  assert.equal(fill(immediate), 256);
  assert.equal(work.hasRoom(waiting), false);
  for (const one of Array.from(work.runs)) work.remove(one);
  assert.equal(fill({ busyMs: 0.125, isImmediate: true }), 4);
});

test("only the last thousand names are remembered, among them a name that goes on running", () => {
  const costs = new CostEstimator();
  const unknown = costs.of("never seen");
  for (let i = 0; i < 5_000; i++) costs.measured(new Set(["steady", `name-${i}`]), 1, true);
  assert.equal(costs.of("name-0"), unknown);
  assert.equal(costs.of("name-4000"), unknown);
  assert.equal(costs.of("name-4999").busyMs, 1);
  assert.equal(costs.of("steady").isImmediate, true);
});
