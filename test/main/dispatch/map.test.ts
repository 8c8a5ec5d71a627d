import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions } from "../../../src/index.js";
import type * as Tasks from "../../fixtures/tasks.js";
import { eventually } from "../../support/gate.js";
import { code, fixture, manage } from "../../support/manage.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function managed(t: TestContext, overrides: Partial<ManagerOptions> = {}): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), ...overrides });
}

function* upTo(count: number, taken: { count: number } = { count: 0 }): Iterable<number> {
  for (let i = 0; i < count; i++) {
    taken.count++;
    yield i;
  }
}

async function* slowly(numbers: Iterable<number>): AsyncIterable<number> {
  for (const i of numbers) {
    await new Promise((resolve) => setImmediate(resolve));
    yield i;
  }
}

function* failing(): Iterable<number> {
  yield 1;
  yield 2;
  throw new RangeError("no more inputs");
}

async function collected<T>(results: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const result of results) all.push(result);
  return all;
}

test("map gives the results in the order of their inputs", async (t) => {
  const manager = managed(t);
  const results = await collected(manager.map("delayed", [30, 1, 20, 1, 10]));
  assert.deepEqual(results, [30, 1, 20, 1, 10]);
});

test("an unordered map gives each result as soon as it comes", async (t) => {
  const manager = managed(t);
  await server.admin.set("second", "2");
  const results: string[] = [];
  for await (const result of manager.map("waitForKey", ["first", "second"], { ordered: false })) {
    results.push(result);
    await server.admin.set("first", "1");
  }
  assert.deepEqual(results, ["2", "1"]);
});

test("map takes an async iterable, and ends when that ends", async (t) => {
  const manager = managed(t);
  assert.deepEqual(await collected(manager.map("echo", slowly(upTo(100)))), [...upTo(100)]);
});

test("inputs are taken only as results are consumed", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  const taken = { count: 0 };
  const results = manager.map("echo", upTo(1_000_000, taken), { concurrency: 10 });
  assert.equal(taken.count, 0, "no input is taken before the first next()");
  for (let consumed = 1; consumed <= 100; consumed++) {
    await results.next();
    assert.ok(taken.count <= consumed + 10, `${taken.count} taken, ${consumed} consumed`);
  }
  await results.return!();
});

test("by default twice as many inputs are taken as the threads take: more where tasks wait for nothing", async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 2 } });
  const taken = { count: 0 };
  const results = manager.map("echo", upTo(1_000_000, taken));
  await results.next();
  assert.ok(taken.count <= 5, `${taken.count} taken of a task that is not known`);
  for (let consumed = 2; consumed <= 5_000; consumed++) {
    await results.next();
    assert.ok(taken.count <= consumed + 512, `${taken.count} taken, ${consumed} consumed`);
  }
  assert.ok(taken.count > 5_010, `${taken.count} taken`);
  await results.return!();
});

test("the first failure is thrown, and the tasks under way are given up", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  const source = { closed: false };
  function* inputs(): Iterable<string> {
    try {
      for (;;) yield "never-set";
    } finally {
      source.closed = true;
    }
  }
  const mixed = manager.map("waitForKeyOrFail", inputs(), { concurrency: 8, ordered: false });
  const first = mixed.next();
  await eventually(() => manager.stats().threads[0]!.running === 8);
  await server.admin.set("fail now", 1);
  await assert.rejects(first, /told to fail/);
  assert.deepEqual(await mixed.next(), { done: true, value: undefined });
  assert.equal(source.closed, true);
  await server.admin.del("fail now");
  await eventually(() => manager.stats().threads[0]!.running === 0);
});

test('with onError "collect" every input has its outcome', async (t) => {
  const manager = managed(t);
  const outcomes = await collected(manager.map("odd", upTo(5), { onError: "collect" }));
  assert.deepEqual(
    outcomes.map((outcome) => [outcome.index, outcome.status === "fulfilled" ? outcome.value : "failed"]),
    [
      [0, "failed"],
      [1, 1],
      [2, "failed"],
      [3, 3],
      [4, "failed"],
    ],
  );
});

test("a consumer that leaves the loop gives up the tasks under way and closes the inputs", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  await server.admin.set("ready-key", "here");
  let closed = false;
  function* inputs(): Iterable<string> {
    try {
      yield "ready-key";
      for (;;) yield "never-set";
    } finally {
      closed = true;
    }
  }
  for await (const result of manager.map("waitForKey", inputs(), { concurrency: 6 })) {
    assert.equal(result, "here");
    break;
  }
  assert.equal(closed, true);
  await eventually(() => manager.stats().threads[0]!.running === 0);
});

test('an aborted signal ends a map, also with onError "collect"', async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  const stop = new AbortController();
  const taken = { count: 0 };
  const keys = (function* () {
    for (const i of upTo(1_000, taken)) yield `never:${i}`;
  })();
  const all = collected(manager.map("waitForKey", keys, { signal: stop.signal, onError: "collect", concurrency: 4 }));
  await eventually(() => manager.stats().threads[0]!.running === 4);
  stop.abort(new Error("enough"));
  await assert.rejects(
    all,
    (error: Error) => code("TASK_ABORTED")(error) && (error.cause as Error).message === "enough",
  );
  assert.equal(taken.count, 4);
});

test("an error of the inputs is thrown after the results before it", async (t) => {
  const manager = managed(t);
  const results = manager.map("echo", failing());
  assert.deepEqual([(await results.next()).value, (await results.next()).value], [1, 2]);
  await assert.rejects(results.next(), RangeError);
  assert.deepEqual(await results.next(), { done: true, value: undefined });
});

test("map waits for room in a full queue instead of failing", async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 1 }, queue: { max: 1 } });
  await manager.ready();
  const running = manager.run("waitForKey", "room");
  await eventually(() => manager.stats().threads[0]!.running === 1);
  const waiting = manager.run("echo", "waiting");
  await eventually(() => manager.stats().queue.size === 1);
  const all = collected(manager.map("echo", upTo(20)));
  await server.admin.set("room", "here");
  assert.deepEqual(await all, [...upTo(20)]);
  await Promise.all([running, waiting]);
});

test("a map that waits for room rejects when the queue was emptied because no thread could start", async (t) => {
  await server.admin.del("set up");
  const manager = managed(t, { tasks: fixture("slow-setup"), queue: { max: 1 } });
  const waiting = assert.rejects(manager.run("echo", "waiting"), code("TASK_ABORTED"));
  const next = assert.rejects(manager.map("echo", upTo(20)).next(), code("SHUTTING_DOWN"));
  await manager.shutdown({ drainMs: 0, closeMs: 500 });
  await eventually(() => Promise.all([waiting, next]), 10_000, "both are rejected");
});

test("a map that its consumer has left throws no failure", async (t) => {
  const manager = managed(t);
  const results = manager.map("echo", failing());
  assert.equal((await results.next()).value, 1);
  assert.deepEqual(await results.return!(), { done: true, value: undefined });
  assert.deepEqual(await results.next(), { done: true, value: undefined });
});

test("a map that runs into the shutdown finishes its tasks and then rejects SHUTTING_DOWN", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  const results = manager.map("echo", upTo(1_000_000), { concurrency: 4 });
  await results.next();
  const done = manager.shutdown();
  await assert.rejects(async () => {
    for (;;) if ((await results.next()).done) return;
  }, code("SHUTTING_DOWN"));
  assert.equal((await done).tasks.abandoned, 0);
});

test("a map with bad options rejects before an input is taken", async (t) => {
  const manager = managed(t);
  const taken = { count: 0 };
  await assert.rejects(manager.map("echo", upTo(1, taken), { concurrency: 0 }).next(), code("CONFIG_INVALID"));
  await assert.rejects(manager.map("echo", upTo(1, taken), { timeoutMs: -1 }).next(), code("CONFIG_INVALID"));
  assert.equal(taken.count, 0);
});
