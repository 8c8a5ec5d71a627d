import assert from "node:assert/strict";
import { test } from "node:test";
import { AcquireQueue } from "../../src/pool/acquire-queue.js";
import { Program } from "../support/program.js";

const newQueue = (): AcquireQueue<string> =>
  new AcquireQueue({ ms: 60_000, now: () => 0, onExpiry: () => new Error("not in this test") });

test("a waiter that leaves early is neither counted nor served; the others keep their order", async () => {
  const queue = newQueue();
  const leaving = new AbortController();
  const first = queue.wait();
  const gone = [queue.wait(leaving.signal), queue.wait(leaving.signal)];
  const last = queue.wait();
  leaving.abort(new Error("no more patience"));
  assert.equal(queue.size, 2);
  for (const one of gone) await assert.rejects(one, /no more patience/);
  assert.ok(queue.serve("a"));
  assert.ok(queue.serve("b"));
  assert.equal(queue.serve("c"), false);
  assert.deepEqual([await first, await last, queue.size], ["a", "b", 0]);
});

test("an abort after a waiter was served, and before its promise has settled, changes nothing", async () => {
  const queue = newQueue();
  const leaving = new AbortController();
  const served = queue.wait(leaving.signal);
  const next = queue.wait();
  assert.ok(queue.serve("a"));
  leaving.abort(new Error("too late"));
  assert.equal(queue.size, 1);
  queue.rejectAll(new Error("closed"));
  assert.equal(await served, "a");
  await assert.rejects(next, /closed/);
  assert.equal(queue.size, 0);
});

test("a waiter that was served does not become long-lived because others always wait", async (t) => {
  const program = new Program(t, "waiting-line", ["8000"]);
  const { grownKb } = await program.hears("grownKb");
  assert.ok(Number(grownKb) < 300, `${String(grownKb)} kB are kept of 8 000 waiters that have left`);
});
