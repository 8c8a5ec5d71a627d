import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { setTimeout } from "node:timers/promises";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/socket-tasks.js";
import { poolOf } from "../support/fake-pool.js";
import { aheadOfTime } from "../support/clock.js";
import { eventually, gate } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const MAX = 8;
const THREADS = 4;
const ASKED_FOR = 5; // by each thread
const LEASES = 5_000;
const DEATHS = 50;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

/** Four threads that ask for twenty connections beside their own, where three are left. */
async function crowded(t: TestContext): Promise<ConnectionManager<typeof Tasks>> {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("socket-tasks"),
    threads: { count: THREADS },
    dedicated: { max: ASKED_FOR },
    connections: { max: MAX },
  });
  await manager.ready();
  return manager;
}

/** Looks at CLIENT LIST many times a second until it is told to stop; gives the most connections it saw. */
function watchSockets(): () => Promise<number> {
  let [most, isOver] = [0, false];
  const watching = (async () => {
    for (; !isOver; await setTimeout(25)) most = Math.max(most, (await server.clients()).length);
  })();
  return async () => {
    isOver = true;
    await watching;
    return most;
  };
}

test("four threads that ask for twenty leases at once share three connections, 5 000 times, and nobody starves", async (t) => {
  const manager = await crowded(t);
  const stopWatching = watchSockets();
  let [longestMs, left] = [0, LEASES];
  const startedAt = performance.now();
  const callers = Array.from({ length: THREADS * ASKED_FOR }, async () => {
    while (left-- > 0) longestMs = Math.max(longestMs, await manager.run("lease", "leases"));
  });
  await Promise.all(callers);
  const most = await stopWatching();
  const seconds = ((performance.now() - startedAt) / 1_000).toFixed(1);
  t.diagnostic(`at most ${most} connections; the longest wait took ${Math.round(longestMs)} ms of ${seconds} s`);
  assert.ok(most <= MAX, `${most} connections`);
  assert.equal(Number(await server.admin.get("leases")), LEASES);
});

test("after 50 threads died in the middle of their leases every one of the eight connections can be used", async (t) => {
  const manager = await crowded(t);
  // As if each thread had served for long: the replacement of one that dies young comes later each time.
  const advance = aheadOfTime(t);
  let isOver = false;
  const lost: unknown[] = [];
  const callers = Array.from({ length: THREADS * ASKED_FOR }, async () => {
    while (!isOver) await manager.run("longLease", "leases").catch((error: unknown) => lost.push(error));
  });
  const gone = new Set<number>();
  try {
    while (gone.size < DEATHS) {
      const done = Number(await server.admin.get("leases"));
      await eventually(async () => Number(await server.admin.get("leases")) > done);
      advance(60_000);
      // One for each of the least loaded: most of the threads at once, the last one has what they leave.
      const deaths = await Promise.allSettled(Array.from({ length: THREADS - 1 }, () => manager.run("die")));
      for (const death of deaths) {
        assert.ok(death.status === "rejected" && code("THREAD_DIED")(death.reason), JSON.stringify(death));
        gone.add((death.reason as { threadId: number }).threadId);
      }
      await eventually(() => manager.stats().threads.filter(({ state }) => state === "ready").length === THREADS);
    }
  } finally {
    isOver = true;
  }
  await Promise.all(callers);
  t.diagnostic(`${lost.length} tasks died with their threads`);
  assert.ok(lost.length > 0);
  assert.deepEqual(
    lost.filter((error) => !code("THREAD_DIED")(error)),
    [],
  );
  const held = Array.from({ length: 2 }, () => manager.run("hold", { holding: "holding", until: "enough" }));
  await eventually(async () => Number(await server.admin.get("holding")) === held.length);
  const unsubscribe = await manager.subscribe("news", () => {});
  const clients = await server.clients();
  assert.equal(clients.length, MAX, clients.map(({ name }) => name).join(", "));
  await server.admin.set("enough", 1);
  await Promise.all(held);
  await unsubscribe();
});

test("a client that is given up for others is not lent once more while it closes", async (t) => {
  const { pool, fakes } = poolOf(t, { max: 1 });
  await (await pool.acquire()).release();
  const closing = gate();
  fakes.onClose = () => closing.promise;
  pool.giveUpIdle();
  const next = pool.acquire();
  closing.open();
  const lease = await next;
  assert.deepEqual([lease.client.id, lease.client.isClosed], [2, false]);
  await lease.release();
});
