import assert from "node:assert/strict";
import { test } from "node:test";
import { cached, threadCached, type DisposeReason } from "../../src/core/memo.js";

test("a value is computed once and handed out until its ttl is over", async () => {
  let now = 0;
  let computed = 0;
  const next = cached(() => ++computed, { ttlMs: 100, now: () => now });
  assert.equal(await next(), 1);
  now = 99;
  assert.equal(await next(), 1);
  now = 100;
  assert.equal(await next(), 2);
  assert.deepEqual(next.info(), { hits: 1, misses: 2, size: 1, max: 128, ttlMs: 100 });
});

test("the ttl varies by its jitter, up and down", async () => {
  let now = 0;
  let random = 0;
  let computed = 0;
  const options = { ttlMs: 100, jitter: 0.1, now: () => now, random: () => random };
  const next = cached(() => ++computed, options);
  await next();
  now = 90;
  random = 1;
  assert.equal(await next(), 2);
  now = 199;
  assert.equal(await next(), 2);
  now = 200.5;
  assert.equal(await next(), 3);
});

test("concurrent calls share one computation", async () => {
  const work = gate<string>();
  let computed = 0;
  const load = cached((id: string) => {
    computed++;
    return work.promise.then((value) => value + id);
  });
  const calls = [load("a"), load("a"), load("b")];
  work.resolve("value ");
  assert.deepEqual(await Promise.all(calls), ["value a", "value a", "value b"]);
  assert.equal(computed, 2);
});

test("all waiting callers share a failure, which is then forgotten, also if it was thrown", async () => {
  let computed = 0;
  const load = cached(() => {
    if (++computed < 2) throw new Error("no");
    return "yes";
  });
  const outcomes = await Promise.allSettled([load(), load()]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ["rejected", "rejected"],
  );
  assert.equal(await load(), "yes");
  assert.equal(computed, 2);
});

test("the least recently used value leaves first, and the bound is exact, also at one", async () => {
  for (const max of [1, 3]) {
    const left: number[] = [];
    const load = cached((id: number) => id, { max, dispose: (id) => void left.push(id) });
    for (let id = 1; id <= max; id++) await load(id);
    await load(1);
    await load(99);
    assert.deepEqual(left, [max === 1 ? 1 : 2]);
    assert.equal(load.info().size, max);
  }
});

test("dispose is called once for every value that leaves, with the reason", async () => {
  let now = 0;
  const left: [string, DisposeReason][] = [];
  const dispose = (value: string, reason: DisposeReason): void => void left.push([value, reason]);
  const load = cached((id: string) => `${id}${now}`, { ttlMs: 10, max: 2, dispose, now: () => now });
  await load("a");
  now = 10;
  await load("a");
  await load("b");
  await load("c");
  assert.equal(await load.delete("b"), true);
  assert.equal(await load.delete("b"), false);
  await load.clear();
  await load.clear();
  assert.deepEqual(left, [
    ["a0", "expired"],
    ["a10", "evicted"],
    ["b10", "deleted"],
    ["c10", "cleared"],
  ]);
});

for (const reason of ["cleared", "deleted"] as const) {
  test(`a computation overtaken by being ${reason} goes to its waiters, is disposed of once, and is not kept`, async () => {
    const gates = [gate<string>(), gate<string>()];
    const left = gate<void>();
    const disposed: [string, DisposeReason][] = [];
    let computed = 0;
    const load = cached((id: string) => gates[computed++]!.promise.then((value) => value + id), {
      dispose: (...value) => {
        disposed.push(value);
        left.resolve();
      },
    });
    const early = load("a");
    await (reason === "cleared" ? load.clear() : load.delete("a"));
    const late = load("a");
    gates[1]!.resolve("new ");
    assert.equal(await late, "new a");
    gates[0]!.resolve("old ");
    assert.equal(await early, "old a");
    await left.promise;
    assert.equal(await load("a"), "new a");
    assert.equal(computed, 2);
    assert.deepEqual(disposed, [["old a", reason]]);
  });
}

test("a failure of an overtaken computation leaves the next one alone", async () => {
  const gates = [gate<string>(), gate<string>()];
  let computed = 0;
  const load = cached(() => gates[computed++]!.promise);
  const early = load();
  await load.clear();
  const late = load();
  gates[0]!.reject(new Error("no"));
  await assert.rejects(early, /no/);
  const joined = load();
  gates[1]!.resolve("new");
  assert.deepEqual(await Promise.all([late, joined]), ["new", "new"]);
  assert.equal(computed, 2);
});

test("a dispose that fails breaks no caller, and its error goes to onDisposeError", async () => {
  const errors: unknown[] = [];
  const failures = [
    () => Promise.reject(new Error("rejected")),
    () => {
      throw new Error("thrown");
    },
  ];
  for (const dispose of failures) {
    const load = cached((id: number) => id, { max: 1, dispose, onDisposeError: (error) => void errors.push(error) });
    assert.deepEqual([await load(1), await load(2)], [1, 2]);
    await load.clear();
    const silent = cached((id: number) => id, { max: 1, dispose });
    assert.deepEqual([await silent(1), await silent(2)], [1, 2]);
    await silent.clear();
  }
  assert.deepEqual(errors.map(String).toSorted(), [
    "Error: rejected",
    "Error: rejected",
    "Error: thrown",
    "Error: thrown",
  ]);
});

test("calls share a value only when their arguments are the same primitives", async () => {
  const load = cached((...args: unknown[]) => args.length);
  const calls = [[], [undefined], [null], ["null"], [1], ["1"], [1n], [true], ["true"], ["a", "b"], ['a","b'], ["a,b"]];
  for (const args of calls) await load(...args);
  for (const args of calls) await load(...args);
  assert.deepEqual([load.info().misses, load.info().hits], [calls.length, calls.length]);
});

test("an argument that is no primitive needs a key function", async () => {
  const refused = cached((arg: unknown) => arg);
  for (const arg of [{}, [], () => 1, Symbol("s")]) {
    await assert.rejects(refused(arg), { name: "TypeError", message: /argument 0 is a \w+: give the option `key`/ });
  }
  const load = cached((user: { id: number; seen: number }) => user.seen, { key: ({ id }) => id });
  assert.deepEqual([await load({ id: 1, seen: 1 }), await load({ id: 1, seen: 2 })], [1, 1]);
  assert.equal(await load.delete({ id: 1, seen: 3 }), true);
});

test("undefined and false are values like any other", async () => {
  let computed = 0;
  const load = cached(() => void computed++);
  await load();
  await load();
  assert.equal(computed, 1);
});

test("an impossible bound or ttl is refused at once", () => {
  assert.throws(() => cached(() => 1, { max: 0 }), RangeError);
  assert.throws(() => cached(() => 1, { ttlMs: Number.NaN }), RangeError);
  assert.throws(() => cached(() => 1, { jitter: 2 }), RangeError);
});

test("a thread's cache has no ttl, and is one per name, also for another copy of the package", async () => {
  const copy: string = "../../src/core/memo.js?another-copy";
  const other: { threadCached: typeof threadCached } = await import(copy);
  assert.notEqual(other.threadCached, threadCached);
  const mine = threadCached(() => ({ from: "mine" }), { name: "memo.test" });
  const theirs = other.threadCached(() => ({ from: "theirs" }), { name: "memo.test" });
  assert.equal(await mine(), await theirs());
  assert.equal(mine.info().ttlMs, Infinity);
  await theirs.clear();
  assert.deepEqual(await theirs(), { from: "theirs" });
  assert.equal(await mine(), await theirs());
  const unnamed = [threadCached(() => 1), threadCached(() => 2)] as const;
  assert.deepEqual([await unnamed[0](), await unnamed[1]()], [1, 2]);
});

interface Gate<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(error: Error): void;
}

function gate<T>(): Gate<T> {
  const settle: { resolve?: (value: T) => void; reject?: (error: Error) => void } = {};
  const promise = new Promise<T>((resolve, reject) => Object.assign(settle, { resolve, reject }));
  return { promise, resolve: (value) => settle.resolve?.(value), reject: (error) => settle.reject?.(error) };
}
