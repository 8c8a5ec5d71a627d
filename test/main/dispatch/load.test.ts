import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type * as Tasks from "../../fixtures/tasks.js";
import { fixture, manage } from "../../support/manage.js";
import { startRedis, type ListedClient, type RedisServer } from "../../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

const THREADS = 8;
const TASKS = 10_000;

/** All since the server started, also the observer's own. */
async function connectionsReceived(): Promise<number> {
  return Number(/total_connections_received:(\d+)/.exec(await server.admin.info("stats"))![1]);
}

const countOf = (clients: readonly ListedClient[], role: string): number =>
  clients.filter(({ name }) => name.endsWith(`:${role}`)).length;

test("eight threads under ten thousand tasks each hold one connection a thread, and every value is right", async (t) => {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("tasks"),
    threads: { count: THREADS },
    queue: { max: THREADS * TASKS },
    redis: { commandTimeoutMs: 60_000 }, // two cores, ten threads and a server: slow is fine here, wrong is not
  });
  const receivedBefore = await connectionsReceived();
  await manager.ready();
  const startedAt = performance.now();
  const wrong: string[] = [];
  let left = THREADS * TASKS;
  const most = { thread: 0, primary: 0, all: 0 };
  const work = Promise.all(
    Array.from({ length: THREADS * TASKS }, async (_, i) => {
      const value = await manager.run("setAndGet", { key: `load:${i}`, value: String(i) });
      if (value !== String(i)) wrong.push(`load:${i} is ${value}`);
      left--;
    }),
  );
  while (left > 0) {
    const clients = await server.clients();
    most.thread = Math.max(most.thread, countOf(clients, "thread"));
    most.primary = Math.max(most.primary, countOf(clients, "primary"));
    most.all = Math.max(most.all, clients.length);
    // Released also after a failure: without it the tasks would spin here for ever.
    await Promise.race([work, new Promise((resolve) => setImmediate(resolve))]);
  }
  const seconds = (performance.now() - startedAt) / 1_000;
  t.diagnostic(`${Math.round((THREADS * TASKS) / seconds)} tasks/s; at most ${JSON.stringify(most)} connections`);
  assert.deepEqual(wrong, []);
  assert.deepEqual(most, { thread: THREADS, primary: 1, all: THREADS + 1 });
  assert.equal((await connectionsReceived()) - receivedBefore, THREADS + 1);
  assert.equal(await server.admin.dbsize(), THREADS * TASKS);
  const { threads } = manager.stats();
  assert.deepEqual(
    threads.map(({ failed, reconnects }) => ({ failed, reconnects })),
    Array.from({ length: THREADS }, () => ({ failed: 0, reconnects: 0 })),
  );
});

test("fifty first getRedis() at once in a thread make one connection and give one handle", async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 1 } });
  const receivedBefore = await connectionsReceived();
  const { handles, name } = await manager.run("firstAcquires");
  assert.equal(handles, 1);
  assert.match(name!, /:thread$/);
  assert.equal((await connectionsReceived()) - receivedBefore, 1);
  assert.equal((await server.clients()).length, 1);
});

test("fifty first getRedis() at once on the main thread make one connection and give one handle", async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 1 } });
  const receivedBefore = await connectionsReceived();
  const handles = await Promise.all(Array.from({ length: 50 }, () => manager.getRedis()));
  assert.equal(new Set(handles).size, 1);
  assert.equal((await connectionsReceived()) - receivedBefore, 1);
});
