import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/near-face-tasks.js";
import { eventually } from "../support/gate.js";
import { newWorkers, sharedBuffers } from "../support/keeper.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const server = await startRedis();
after(() => server.stop());

type Manager = ConnectionManager<typeof Tasks>;
const tasks = fixture("near-face-tasks");
const nearCache = { prefixes: ["life:"] };

const keepers = async (): Promise<number> =>
  (await server.clients()).filter(({ name }) => name.endsWith(":keeper")).length;

test(
  "without prefixes there is no further thread, connection or memory, and no question to the server",
  LIMIT,
  async (t) => {
    const workers = newWorkers(t);
    const buffers = sharedBuffers(t);
    const manager: Manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
    await manager.ready();
    const before = await helloCalls();
    await assert.rejects(manager.run("get", "life:a"), code("CONFIG_INVALID"));
    await (await manager.getRedis()).ping();
    assert.equal(workers.length, 1);
    assert.equal(await keepers(), 0);
    assert.ok(buffers.length > 0);
    assert.deepEqual(
      buffers.filter((stack) => stack.includes("/src/near/")),
      [],
    );
    assert.equal(await helloCalls(), before);
  },
);

async function helloCalls(): Promise<string | undefined> {
  const stats = await server.admin.info("commandstats");
  return /cmdstat_hello:calls=(\d+)/.exec(stats)?.[1];
}

test("with prefixes the keeper is there before the first read, and gone after the shutdown", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache });
  await manager.ready();
  await eventually(async () => (await keepers()) === 1, 30_000, "the keeper is connected");
  await server.admin.set("life:a", "a");
  assert.equal(await manager.run("readUntilHit", "life:a"), "a");
  await manager.shutdown();
  assert.equal(await keepers(), 0);
  await assert.rejects(manager.near.get("life:other"), code("SHUTTING_DOWN"));
  assert.equal(manager.near.peek("life:a"), undefined);
});

test("what a thread has read outlives it, and another thread fills what it was filling", LIMIT, async (t) => {
  const large = "x".repeat(60_000);
  const maxValueBytes = 65_536;
  // Two threads with their successors and the main thread: not one part more than is needed.
  const maxBytes = 6 * 16 * maxValueBytes;
  const manager: Manager = manage<typeof Tasks>(t, server, {
    tasks,
    nearCache: { ...nearCache, maxBytes, maxValueBytes },
    threads: { count: 2, maxTasks: 8 },
  });
  await manager.ready();
  let last = 0;
  for (let i = 0; i < 100 || manager.stats().recycled < 4; i++) {
    const key = `life:${i}`;
    await server.admin.set(key, large + i);
    assert.equal(await manager.run("readUntilHit", key), large + i);
    last = i;
  }
  assert.equal(await manager.near.get(`life:${last}`), large + last);
});

test("a keeper that ends takes the lease with it, and the next one begins anew", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache, threads: { count: 1 } });
  await manager.ready();
  await server.admin.set("life:k", "before");
  assert.equal(await manager.run("readUntilHit", "life:k"), "before");
  const keeper = workers.find(
    ({ threadId }) => threadId > 0 && workers.length === 2 && threadId !== manager.stats().threads[0]!.threadId,
  );
  await keeper!.terminate();
  assert.equal(manager.near.peek("life:k"), undefined, "nothing is served once its end is known");
  assert.equal(await manager.near.get("life:k"), "before");
  await server.admin.set("life:k", "meanwhile");
  assert.equal(
    await manager.run("readUntilHit", "life:k").then(() => manager.near.get("life:k", { fresh: true })),
    "meanwhile",
  );
  await eventually(
    async () => (await manager.run("peek", "life:k")) === "meanwhile" || (await manager.run("get", "life:k"), false),
    30_000,
    "it is served again",
  );
});

test("a thread that disconnects and connects anew goes on reading", LIMIT, async (t) => {
  const manager: Manager = manage<typeof Tasks>(t, server, { tasks, nearCache, threads: { count: 1 } });
  await manager.ready();
  await server.admin.set("life:d", "d");
  assert.equal(await manager.run("readUntilHit", "life:d"), "d");
  assert.equal(await manager.run("disconnectAndGet", "life:d2"), null);
  assert.equal(
    await manager.run("write", { key: "life:d", value: "e" }).then(() => manager.run("readUntilHit", "life:d")),
    "e",
  );
});
