import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { mock, test, type TestContext } from "node:test";
import { monotonic } from "../../src/core/clock.js";
import { abortable, sleep, within } from "../../src/core/waiting.js";

const never = new Promise<never>(() => {});
const timeout = (): Error => new Error("timed out");

test("sleep resolves once its time has passed, also beyond the longest timer of Node", async (t) => {
  const delays = manualTimers(t);
  const slept = track(sleep(2 ** 31 + 10));
  t.mock.timers.tick(2 ** 31 - 1);
  await turn();
  assert.equal(slept.settled, false);
  t.mock.timers.tick(11);
  await turn();
  assert.equal(slept.settled, true);
  assert.ok(delays.every((ms) => ms <= 2 ** 31 - 1));
});

test("an aborted sleep rejects with the reason and leaves neither timer nor listener", async () => {
  const before = timers();
  const controller = new AbortController();
  const slept = sleep(1e9, controller.signal);
  const reason = new Error("enough");
  controller.abort(reason);
  await assert.rejects(slept, reason);
  await assert.rejects(sleep(1e9, controller.signal), reason);
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
  assert.equal(timers(), before);
});

test("within gives the outcome of work that is done in time, and leaves no timer", async () => {
  const before = timers();
  assert.equal(await within(Promise.resolve(7), 1e9, timeout), 7);
  await assert.rejects(within(Promise.reject(new Error("lost")), 1e9, timeout), /lost/);
  assert.equal(timers(), before);
});

test("within rejects with the caller's error, and a later rejection of the work is not unhandled", async () => {
  const unhandled = mock.fn();
  process.on("unhandledRejection", unhandled);
  const work = gate();
  await assert.rejects(within(work.promise, 1, timeout), /timed out/);
  work.reject(new Error("too late to matter"));
  await turn();
  process.off("unhandledRejection", unhandled);
  assert.equal(unhandled.mock.callCount(), 0);
});

test("after a loop was blocked past the deadline, the work gets the lost time again", async () => {
  const work = gate();
  const outcome = within(work.promise, 30, timeout);
  // Due together with the deadline, but handled after it, like a reply that lies in the socket.
  setTimeout(() => setImmediate(() => setImmediate(work.resolve, "here")), 60);
  block(120);
  assert.equal(await outcome, "here");
});

test("a block in the very turn of a punctual deadline counts as well", async () => {
  const work = gate();
  // Runs between the deadline's timer and the poll after it.
  setTimeout(() => setImmediate(block, 60), 30);
  const outcome = within(work.promise, 30, timeout);
  setTimeout(() => setImmediate(() => setImmediate(work.resolve, "here")), 60);
  assert.equal(await outcome, "here");
});

test("the extension is given once", async () => {
  const outcome = within(never, 30, timeout);
  block(90);
  const blocker = setInterval(() => block(60), 1);
  await assert.rejects(outcome, /timed out/);
  clearInterval(blocker);
});

test("abortable passes the outcome on and leaves no listener", async () => {
  const { signal } = new AbortController();
  assert.equal(await abortable(Promise.resolve(1), signal), 1);
  await assert.rejects(abortable(Promise.reject(new Error("lost")), signal), /lost/);
  assert.equal(await abortable(Promise.resolve(2)), 2);
  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("abortable rejects with the signal's reason, also when it was aborted before and the work is done", async () => {
  const controller = new AbortController();
  const waiting = abortable(never, controller.signal);
  controller.abort("why");
  await assert.rejects(waiting, (reason) => reason === "why");
  await assert.rejects(abortable(Promise.resolve(1), controller.signal), (reason) => reason === "why");
  assert.equal(getEventListeners(controller.signal, "abort").length, 0);
});

test("the clock never steps back", () => {
  const before = monotonic();
  assert.ok(monotonic() >= before);
});

/** Freezes setTimeout until the test ticks. Returns the requested delays. */
function manualTimers(t: TestContext): number[] {
  const delays: number[] = [];
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const real = globalThis.setTimeout;
  t.mock.method(globalThis, "setTimeout", (fire: () => void, ms: number) => {
    delays.push(ms);
    return real(fire, ms);
  });
  return delays;
}

function track(work: Promise<unknown>): { settled: boolean } {
  const state = { settled: false };
  void work.finally(() => (state.settled = true)).catch(() => {}); // the test awaits the outcome itself
  return state;
}

function gate(): { promise: Promise<string>; resolve: (value: string) => void; reject: (error: Error) => void } {
  const settle: { resolve?: (value: string) => void; reject?: (error: Error) => void } = {};
  const promise = new Promise<string>((resolve, reject) => Object.assign(settle, { resolve, reject }));
  return { promise, resolve: (value) => settle.resolve?.(value), reject: (error) => settle.reject?.(error) };
}

function timers(): number {
  return process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function block(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
