import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { Worker } from "node:worker_threads";
import { SharedSemaphore, type PermitKind } from "../../src/gate/shared-semaphore.js";
import { eventually } from "../support/gate.js";

function makePermits(count: number, rows = 3): SharedSemaphore[] {
  const cells = new Int32Array(new SharedArrayBuffer(4 * SharedSemaphore.cells(rows, count)));
  return Array.from({ length: rows }, (_, row) => {
    return new SharedSemaphore(cells, { rows, count, row });
  });
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(setImmediate);
}

/** Stops the clock, so that only what a thread announces wakes a waiter; counts how often that happens. */
function withoutTime(t: TestContext): { woken: number } {
  const seen = { woken: 0 };
  const wait = Atomics.waitAsync;
  t.mock.method(process, "hrtime", () => [0, 0]);
  t.mock.method(Atomics, "waitAsync", (cells: Int32Array<SharedArrayBuffer>, cell: number, value: number) => {
    const result = wait(cells, cell, value);
    if (result.async) void result.value.then(() => seen.woken++);
    return result;
  });
  return seen;
}

test("a permit goes to the longest waiter of all threads, and main waiters are served before spare ones", async () => {
  const [a, b, c] = makePermits(2) as [SharedSemaphore, SharedSemaphore, SharedSemaphore];
  const first = await a.acquire("main");
  const second = await a.acquire("main");
  const order: string[] = [];
  const wait = (permits: SharedSemaphore, kind: "main" | "spare", name: string) =>
    permits.acquire(kind).then((release) => (order.push(name), release));
  const waiting = [wait(b, "spare", "spare b"), wait(c, "main", "main c"), wait(b, "main", "main b")];
  first();
  const releaseC = await waiting[1]!;
  second();
  const releaseB = await waiting[2]!;
  releaseC();
  releaseB();
  (await waiting[0]!)();
  assert.deepEqual(order, ["main c", "main b", "spare b"]);
  assert.equal(a.held, 0);
});

test("the last free permit is reserved for main", async () => {
  const [a] = makePermits(2) as [SharedSemaphore];
  const spare = await a.acquire("spare");
  const stop = new AbortController();
  const refused = a.acquire("spare", stop.signal);
  const main = await a.acquire("main");
  stop.abort(new Error("enough"));
  await assert.rejects(refused, /enough/);
  assert.equal(a.isWanted, false);
  spare();
  spare();
  main();
  assert.equal(a.held, 0);
});

test("the permits and tickets of a dead thread are swept", async () => {
  const [a, b] = makePermits(1) as [SharedSemaphore, SharedSemaphore];
  await a.acquire("main");
  const waiting = b.acquire("main");
  a.sweep(0);
  await waiting;
  b.sweep(1);
  assert.equal(a.held, 0);
});

test("a waiter in a blocked thread is passed by, and keeps its place until its thread looks again", async (t) => {
  const cells = new Int32Array(new SharedArrayBuffer(4 * SharedSemaphore.cells(2, 1)));
  const other = new SharedSemaphore(cells, { rows: 2, count: 1, row: 1 });
  const release = await other.acquire("main");
  const blocked = new Int32Array(new SharedArrayBuffer(8));
  const url = new URL("../../src/gate/shared-semaphore.js", import.meta.url).href;
  const source = `
    setInterval(() => {}, 1_000); // a wait in shared memory alone keeps no thread alive
    const { workerData: { url, cells, blocked } } = require("node:worker_threads");
    import(url).then(async ({ SharedSemaphore }) => {
      const waiting = new SharedSemaphore(cells, { rows: 2, count: 1, row: 0 }).acquire("main");
      Atomics.store(blocked, 0, 1);
      Atomics.wait(blocked, 1, 0);
      const release = await waiting;
      Atomics.store(blocked, 0, 2);
      release();
    });
  `;
  const worker = new Worker(source, { eval: true, workerData: { url, cells, blocked } });
  t.after(() => worker.terminate().then(() => undefined));
  await eventually(() => Atomics.load(blocked, 0) === 1, 15_000);
  release();
  const again = await eventually(() => other.acquire("main"), 10_000, "the one permit, although another came first");
  assert.equal(other.isWanted, false);
  Atomics.store(blocked, 1, 1);
  Atomics.notify(blocked, 1);
  await eventually(() => other.isWanted, 10_000, "it looks again");
  const last = other.acquire("main");
  again();
  (await eventually(() => last, 10_000))();
  assert.equal(Atomics.load(blocked, 0), 2, "the waiter that came first was served first");
  assert.equal(other.held, 0);
});

test("a brief permit of a blocked thread goes to a waiter, and is not taken back when the thread goes on", async (t) => {
  const options = { rows: 2, count: 1, isBrief: true };
  const cells = new Int32Array(new SharedArrayBuffer(4 * SharedSemaphore.cells(2, 1)));
  const other = new SharedSemaphore(cells, { ...options, row: 1 });
  const blocked = new Int32Array(new SharedArrayBuffer(8));
  const url = new URL("../../src/gate/shared-semaphore.js", import.meta.url).href;
  const source = `
    setInterval(() => {}, 1_000);
    const { workerData: { url, cells, blocked, options } } = require("node:worker_threads");
    import(url).then(async ({ SharedSemaphore }) => {
      const release = await new SharedSemaphore(cells, { ...options, row: 0 }).acquire("main");
      Atomics.store(blocked, 0, 1);
      while (Atomics.load(blocked, 1) === 0) await new Promise((resolve) => setTimeout(resolve, 10));
      Atomics.store(blocked, 0, 2);
      Atomics.wait(blocked, 1, 1);
      release();
      Atomics.store(blocked, 0, 3);
    });
  `;
  const worker = new Worker(source, { eval: true, workerData: { url, cells, blocked, options } });
  t.after(() => worker.terminate().then(() => undefined));
  await eventually(() => Atomics.load(blocked, 0) === 1, 15_000);
  const taken = other.acquire("main");
  let isTaken = false;
  void taken.then(() => (isTaken = true));
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  assert.equal(isTaken, false, "its loop turns: it keeps what it holds");
  Atomics.store(blocked, 1, 1);
  const release = await eventually(() => taken, 10_000, "it is blocked: the permit is taken over");
  assert.equal(Atomics.load(blocked, 0), 2);
  Atomics.store(blocked, 1, 2);
  Atomics.notify(blocked, 1);
  await eventually(
    () => Atomics.load(blocked, 0) === 3,
    10_000,
    "it goes on, and gives back what is no longer its own",
  );
  assert.equal(other.held, 1);
  release();
  assert.equal(other.held, 0);
});

test("of many waiters only the one whose turn it is wakes up", async (t) => {
  const all = makePermits(1, 50);
  const seen = withoutTime(t);
  let served = 0;
  const serveAll = all.map(async (permits) => {
    const release = await permits.acquire("main");
    await new Promise(setImmediate);
    served++;
    release();
  });
  await eventually(() => served === all.length, 10_000);
  await Promise.all(serveAll);
  assert.ok(seen.woken <= all.length, `${seen.woken} wake-ups for ${all.length} permits`);
});

test("a waiter is woken by what happens, not by the clock, while other waiters come, leave and give up", async (t) => {
  const all = makePermits(3, 6);
  const alive = setInterval(() => {}, 1_000); // a wait in shared memory alone keeps no process alive
  t.after(() => clearInterval(alive));
  withoutTime(t);
  let random = 1;
  const next = (below: number): number => (random = (random * 48_271) % 2_147_483_647) % below;
  let [served, givenUp] = [0, 0];
  const callers = Array.from({ length: 24 }, async (_, caller) => {
    for (let i = 0; i < 200; i++) {
      const kind: PermitKind = next(3) === 0 ? "spare" : "main";
      const patience = new AbortController();
      if (next(4) === 0) void turns(next(4)).then(() => patience.abort(new Error("gave up")));
      try {
        const release = await all[caller % all.length]!.acquire(kind, patience.signal);
        served++;
        await turns(next(3));
        release();
      } catch {
        givenUp++;
      }
      await turns(next(5));
    }
  });
  await eventually(() => served + givenUp === 24 * 200, 60_000);
  await Promise.all(callers);
  assert.ok(served > 2_000 && givenUp > 50, `${served} served, ${givenUp} gave up`);
  assert.equal(all[0]!.held, 0);
  assert.equal(all[0]!.isWanted, false);
});

test("the owner of a permit that could be given up is told while any thread waits, again after each change", async (t) => {
  let told = 0;
  const [owner, waiter] = makePermits(3, 2) as [SharedSemaphore, SharedSemaphore];
  owner.whenWanted(() => told++);
  waiter.whenWanted(() => told++);
  const alive = setInterval(() => {}, 1_000);
  t.after(() => clearInterval(alive));
  withoutTime(t);
  const held = [await owner.acquire("main"), await owner.acquire("main"), await owner.acquire("main")];
  await new Promise(setImmediate);
  told = 0;
  const waiting = waiter.acquire("spare"); // a spare waiter needs two free permits
  await eventually(() => told > 0);
  await new Promise(setImmediate);
  told = 0;
  held[0]!();
  await eventually(() => told > 0, 5_000, "one given up was not enough");
  held[1]!();
  (await waiting)();
  held[2]!();
  assert.equal(owner.held, 0);
});
