import assert from "node:assert/strict";
import { after, test } from "node:test";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { eventually } from "../support/gate.js";
import { newWorkers } from "../support/keeper.js";
import { code, fixture, manage } from "../support/manage.js";
import { Program } from "../support/program.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const server = await startRedis();
after(() => server.stop());

const tasks = fixture("lock-tasks");

for (const rights of ["+@all", "+@all -client|kill", "+@all -client"]) {
  test(`a thread that ends with 20 locks, and one under way, leaves none (ACL ${rights})`, LIMIT, async (t) => {
    await server.admin.call("ACL", "SETUSER", "holder", "reset", "on", ">secret", "~*", "&*", ...rights.split(" "));
    const workers = newWorkers(t);
    const manager = manage<typeof Tasks>(t, server, {
      tasks,
      redis: { username: "holder", password: "secret" },
      threads: { count: 1 },
    });
    const keys = Array.from({ length: 20 }, (_, i) => `dead ${i}`);
    await manager.run("keep", { keys, ttlMs: 60_000 });
    assert.equal(await server.admin.exists(...keys), 20);
    const exited = new Promise<number>((resolve) => workers[0]!.once("exit", () => resolve(performance.now())));
    await assert.rejects(manager.run("exitWhileAcquiring", { key: "under way", ttlMs: 60_000 }), code("THREAD_DIED"));
    const diedAt = await exited;
    await eventually(async () => (await server.admin.exists(...keys)) === 0, 5_000, "the locks are free");
    t.diagnostic(`free ${Math.round(performance.now() - diedAt)} ms after the exit`);
    await eventually(async () => (await server.admin.exists("under way")) === 0, 5_000, "and the one under way");
    await new Promise((resolve) => setTimeout(resolve, 500));
    assert.equal(await server.admin.exists("under way", ...keys), 0, "it does not come later");
  });
}

test("the second acquire of a lock by the same task is refused at once", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
  const told = await manager.run("twice", "twice");
  assert.match(told, /^REDTHREAD_LOCK_NOT_ACQUIRED: no lock twice: its caller holds or awaits it already/);
  const nested = manager.withLock("nested", {}, () => manager.withLock("nested", {}, async () => 1));
  await assert.rejects(nested, /no lock nested: its caller holds or awaits it already/);
  let later: Promise<number> | undefined;
  await manager.withLock("outlived", {}, async () => {
    later = new Promise((resolve) => setTimeout(resolve, 100)).then(() =>
      manager.withLock("outlived", {}, async () => 2),
    );
  });
  assert.equal(await later, 2);
});

test(
  "a loss aborts the signal of the task that holds the lock, and becomes the cause of what the task throws",
  LIMIT,
  async (t) => {
    const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count: 1 } });
    const lost = manager.run("throwWhenLost", { key: "of a task", ttlMs: 500 });
    await eventually(async () => (await server.admin.exists("of a task")) === 1, 30_000, "the lock is there");
    await server.admin.del("of a task");
    const error = (await lost.catch((thrown: unknown) => thrown)) as Error & { cause: Error & { reason: string } };
    assert.equal(error.message, "my own");
    assert.ok(code("LOCK_LOST")(error.cause));
    assert.equal(error.cause.reason, "gone");
    const loss = manager.withLock("of main", { ttlMs: 500 }, async (lock) => {
      await server.admin.del("of main");
      await new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
    });
    await assert.rejects(loss, code("LOCK_LOST"));
  },
);

test("keys with a prefix, hash tags, and of any bytes have their fences beside them", LIMIT, async (t) => {
  const manager = manage<typeof Tasks>(t, server, { tasks, redis: { keyPrefix: "p:" }, threads: { count: 1 } });
  await server.admin.flushall();
  const bytes = Buffer.from([0xff, 0x00, 0x7b, 0xfe]);
  for (const key of ["plain", "{a}:b", "a}b", "{}a", "a{b", bytes]) await manager.withLock(key, {}, async () => {});
  const found = (await server.admin.keysBuffer("*")).map((key) => key.toString("latin1")).toSorted();
  const fences = [
    "p:{a}:b:fence",
    "{p:a}b}:fence",
    "{p:plain}:fence",
    "{p:a{b}:fence",
    "{p:{}a}:fence",
    "{p:\xff\x00{\xfe}:fence",
  ];
  assert.deepEqual(found, fences.toSorted());
});

test(
  "a program without a manager has a keeper of its own, and knows after a SIGSTOP that it has lost its lock",
  LIMIT,
  async (t) => {
    const env = { ...process.env, REDIS_URL: `redis://127.0.0.1:${server.port}` };
    const program = new Program(t, "locking", [], { env });
    await program.hears("lasted", 30_000); // for three times the ttl, in a loop
    program.signal("SIGSTOP");
    const stoppedAt = Date.now();
    await eventually(async () => (await server.admin.exists("of a program")) === 0, 30_000, "a rival can get it");
    await server.admin.set("of a program", "a rival");
    const takenAt = Date.now();
    program.signal("SIGCONT");
    const { lost, lastHeldAt } = await program.hears("lost", 30_000);
    assert.equal(lost, "expired");
    assert.ok((lastHeldAt as number) <= takenAt, `${String(lastHeldAt)} after ${takenAt}, stopped at ${stoppedAt}`);
    assert.equal((await program.exit).code, 0);
    assert.equal(await server.admin.get("of a program"), "a rival");
  },
);
