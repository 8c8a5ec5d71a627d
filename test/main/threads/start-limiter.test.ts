import assert from "node:assert/strict";
import { test } from "node:test";
import { StartLimiter } from "../../../src/main/threads/start-limiter.js";

/** The threads whose turn has come, in order. */
function watched(limiter: StartLimiter<string>, names: readonly string[]): string[] {
  const begun: string[] = [];
  for (const name of names) {
    limiter.turn(name).then(
      () => begun.push(name),
      () => begun.push(`not ${name}`),
    );
  }
  return begun;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("as many threads as the limit load at once, and the next when one of them has loaded", async () => {
  const limiter = new StartLimiter<string>(2);
  const begun = watched(limiter, ["a", "b", "c", "d"]);
  await turn();
  assert.deepEqual(begun, ["a", "b"]);
  limiter.done("b");
  limiter.done("b"); // the thread was ready, and later ended
  await turn();
  assert.deepEqual(begun, ["a", "b", "c"]);
});

test("a thread that is not ready after a second keeps no other waiting", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const limiter = new StartLimiter<string>(1);
  const begun = watched(limiter, ["a", "b", "c"]);
  t.mock.timers.tick(999);
  await turn();
  assert.deepEqual(begun, ["a"]);
  t.mock.timers.tick(1);
  await turn();
  assert.deepEqual(begun, ["a", "b"]);
  limiter.done("a"); // its turn is over
  await turn();
  assert.deepEqual(begun, ["a", "b"]);
});

test("a thread whose turn had not come at the stop never begins", async () => {
  const limiter = new StartLimiter<string>(1);
  const begun = watched(limiter, ["a", "b", "c"]);
  assert.deepEqual(limiter.stop(), ["b", "c"]);
  limiter.done("a");
  await turn();
  assert.deepEqual(begun, ["a", "not b", "not c"]);
});
