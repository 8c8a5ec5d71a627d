import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { after, test } from "node:test";
import type { ConnectionManager, Lock } from "../../src/index.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { FENCES } from "../../src/locks/lock-scripts.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const server = await startRedis();
after(() => server.stop());

const tasks = fixture("lock-tasks");

const isGone = (key: string) => (): Promise<boolean> => server.admin.exists(key).then((count) => count === 0);

async function scripts(): Promise<number> {
  const stats = await server.admin.info("commandstats");
  const counts = [...stats.matchAll(/^cmdstat_eval(?:sha)?:calls=(\d+)/gm)].map(([, count]) => Number(count));
  return counts.reduce((sum, count) => sum + count, 0);
}

/** Callers of the main thread, in the order in which they get the lock: each releases it at once. */
function callers(manager: ConnectionManager<typeof Tasks>, key: string, count: number): Promise<number>[] {
  return Array.from({ length: count }, async () => {
    const lock = await manager.acquireLock(key, { waitMs: 50_000 });
    await lock.release();
    return lock.fence;
  });
}

test("a lock is passed on within a thread without asking Redis, in order and with growing fences", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  await manager.withLock("before", {}, async () => {}); // the server knows the scripts
  const first = await manager.acquireLock("passed", { ttlMs: 10_000 });
  const waiting = callers(manager, "passed", 40);
  const before = await scripts();
  await first.release();
  const fences = await Promise.all(waiting);
  // A chain of 16 holders costs an acquire and a release, and perhaps an acquire in vain.
  const asked = (await scripts()) - before;
  assert.ok(asked <= 9, `${asked} scripts for 41 holders`);
  const sorted = fences.toSorted((a, b) => a - b);
  assert.deepEqual(fences, sorted);
  assert.equal(new Set([first.fence, ...fences]).size, 41);
  assert.ok(first.fence < fences[0]!);
  const counter = Number(await server.admin.get("{passed}:fence"));
  assert.ok(counter >= fences.at(-1)!, "the next holder anywhere has a greater one");
  await eventually(isGone("passed"), 5_000, "it is free");
});

test(
  "a lock that was held for longer than a moment is released for callers elsewhere, and not passed on",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks });
    const first = await manager.acquireLock("for long", { ttlMs: 10_000 });
    const second = manager.acquireLock("for long", { ttlMs: 10_000, waitMs: 50_000 });
    const third = manager.acquireLock("for long", { ttlMs: 10_000, waitMs: 50_000 });
    await new Promise((resolve) => setTimeout(resolve, 150));
    await first.release();
    assert.ok((await second).fence >= first.fence + FENCES, "it was acquired anew");
    await (await second).release();
    await (await third).release();
  },
);

test(
  "keys of the same name in different bytes are different locks, and the same bytes are one lock",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks });
    const text = "\u00c3\u00a9"; // its letters are the bytes of the Buffer, and its bytes are others
    const lock = await manager.acquireLock(Buffer.from([0xc3, 0xa9]), { ttlMs: 60_000 });
    const other = await manager.acquireLock(text, { ttlMs: 60_000, waitMs: 10_000 });
    other.assertHeld();
    lock.assertHeld();
    const before = await scripts();
    const same = manager.acquireLock("\u00e9", { ttlMs: 60_000, waitMs: 50_000 });
    await eventually(() => manager.stats().keeper!.waiting === 1, 5_000, "it waits behind the other one");
    assert.equal(await scripts(), before, "and has not asked Redis");
    await lock.release();
    await (await same).release();
    await other.release();
  },
);

test("a shutdown ends the wait of callers behind others, and releases the lock", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const lock = await manager.acquireLock("closing", { ttlMs: 60_000 });
  const waiting = Promise.allSettled(callers(manager, "closing", 5));
  await eventually(() => manager.stats().keeper!.waiting === 5, 5_000, "they are counted");
  const released = lock.release();
  await Promise.all([released, manager.shutdown()]);
  for (const one of await waiting)
    if (one.status === "rejected") assert.ok(code("SHUTTING_DOWN")(one.reason) || code("LOCK_LOST")(one.reason));
  await eventually(isGone("closing"), 5_000, "it is free");
});

test("while the callers of a thread pass a lock on, a caller in another thread gets it, too", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  let isOver = false;
  const looping = Array.from({ length: 4 }, async () => {
    while (!isOver) await (await manager.acquireLock("contended", { waitMs: 50_000 })).release();
  });
  try {
    await manager.run("count", { key: "contended", times: 5, waitMs: 30_000 });
  } finally {
    isOver = true;
    await Promise.all(looping);
  }
});

test(
  "a caller whose signal aborts in the turn in which it gets the lock leaves it to the next one",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks });
    const { signal, abort } = newAbort();
    const lock = await manager.acquireLock("aborted", { ttlMs: 60_000 });
    const given = manager.acquireLock("aborted", { ttlMs: 60_000, waitMs: 50_000, signal });
    const next = manager.acquireLock("aborted", { ttlMs: 60_000, waitMs: 50_000 });
    await new Promise((resolve) => setImmediate(resolve));
    const released = lock.release();
    abort();
    await assert.rejects(given, /the caller is gone/);
    await released;
    await (await next).release();
    await eventually(isGone("aborted"), 5_000, "it is free");
  },
);

function newAbort(): { signal: AbortSignal; abort: () => void } {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort(new Error("the caller is gone")) };
}

test("callers behind a holder that hangs get the lock when it is lost", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const hung = await manager.acquireLock("hung", { ttlMs: 60_000, maxHoldMs: 500 });
  const other = await manager.acquireLock("hung", { ttlMs: 60_000, waitMs: 3_600_000 }); // at the end of this it would ask, too
  assert.throws(() => hung.assertHeld(), code("LOCK_LOST"));
  await other.release();
  await assert.rejects(hung.release(), code("LOCK_LOST"));
});

test("a caller with another ttl acquires the lock anew, and each holder has its own maxHoldMs", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const first = await manager.acquireLock("terms", { ttlMs: 60_000 });
  const longer = manager.acquireLock("terms", { ttlMs: 80_000, waitMs: 50_000 });
  await new Promise((resolve) => setImmediate(resolve)); // it is in the queue
  await first.release();
  const second = await longer;
  assert.ok((await server.admin.pttl("terms")) > 60_000);
  const hanging = manager.acquireLock("terms", { ttlMs: 80_000, waitMs: 50_000, maxHoldMs: 300 });
  await new Promise((resolve) => setImmediate(resolve));
  await second.release();
  const third: Lock = await hanging;
  third.assertHeld();
  await new Promise((resolve) => third.signal.addEventListener("abort", resolve));
  assert.equal((third.signal.reason as { reason: string }).reason, "maxHold");
  await eventually(isGone("terms"), 5_000, "it is free");
  const short = await manager.acquireLock("terms", { ttlMs: 60_000, maxHoldMs: 20_000 });
  const long = manager.acquireLock("terms", { ttlMs: 60_000, waitMs: 50_000 });
  await new Promise((resolve) => setImmediate(resolve));
  await short.release();
  assert.ok((await long).fence >= short.fence + FENCES, "acquired anew: the time that was left was cut");
  await (await long).release();
});

test("a loss is heard outside of the contexts of other callers", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const context = new AsyncLocalStorage<string>();
  const one = await manager.acquireLock("one", { maxHoldMs: 500 });
  const heard = new Promise((resolve) => one.signal.addEventListener("abort", () => resolve(context.getStore())));
  await context.run("another caller", () =>
    manager
      .withLock("another", { maxHoldMs: 300 }, async (lock) => {
        await new Promise((resolve) => lock.signal.addEventListener("abort", resolve)); // its time comes first
      })
      .catch(() => {}),
  );
  assert.equal(await heard, undefined);
});

test("a caller whose time is over behind others is told what holds the lock", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks });
  const lock = await manager.acquireLock("late", { ttlMs: 60_000 });
  const patient = manager.acquireLock("late", { waitMs: 50_000 });
  const told = (await manager.acquireLock("late", { waitMs: 100 }).catch((error: unknown) => error)) as {
    holder: { name: string };
  };
  assert.ok(code("LOCK_NOT_ACQUIRED")(told));
  assert.ok(told.holder.name.includes(String(process.pid)));
  await lock.release();
  await (await patient).release();
});
