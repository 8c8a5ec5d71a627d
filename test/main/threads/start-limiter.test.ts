import assert from "node:assert/strict";
import { test } from "node:test";
import { StartLimiter } from "../../../src/main/threads/start-limiter.js";

/** The threads whose turn has come, in order. */
function watched(queue: StartLimiter<string>, names: readonly string[]): string[] {
  const begun: string[] = [];
  for (const name of names) {
    queue.turn(name).then(
      () => begun.push(name),
      () => begun.push(`not ${name}`),
    );
  }
  return begun;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("so many threads load at once, the next when one of them has loaded", async () => {
  const queue = new StartLimiter<string>(2);
  const begun = watched(queue, ["a", "b", "c", "d"]);
  await turn();
  assert.deepEqual(begun, ["a", "b"]);
  queue.done("b");
  queue.done("b"); // ready, and later ended
  await turn();
  assert.deepEqual(begun, ["a", "b", "c"]);
});

test("a thread that is still not ready after a second keeps nobody waiting", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const queue = new StartLimiter<string>(1);
  const begun = watched(queue, ["a", "b", "c"]);
  t.mock.timers.tick(999);
  await turn();
  assert.deepEqual(begun, ["a"]);
  t.mock.timers.tick(1);
  await turn();
  assert.deepEqual(begun, ["a", "b"]);
  queue.done("a"); // whose turn is over
  await turn();
  assert.deepEqual(begun, ["a", "b"]);
});

test("whose turn had not come when it was stopped, never begins", async () => {
  const queue = new StartLimiter<string>(1);
  const begun = watched(queue, ["a", "b", "c"]);
  assert.deepEqual(queue.stop(), ["b", "c"]);
  queue.done("a");
  await turn();
  assert.deepEqual(begun, ["a", "not b", "not c"]);
});
