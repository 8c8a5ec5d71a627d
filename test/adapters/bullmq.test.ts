import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/job-tasks.js";
import { eventually } from "../support/gate.js";
import { TestQueue, work } from "../support/jobs.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const DEADLINE = { timeout: 60_000 };
const WAIT_MS = 30_000;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function managed(t: TestContext, overrides: Partial<ManagerOptions> = {}): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, { tasks: fixture("job-tasks"), ...overrides });
}

test("a job runs as the task of its name, with its data as input and itself as context", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "names");
  await using jobs = await work(manager, server, queue);
  assert.equal(jobs.worker.concurrency, 4);
  const effect = await queue.add("effect", { id: 1, ms: 0 });
  assert.equal((await queue.reaches(effect, "completed")).returnvalue, 1);
  const whoAmI = await queue.add("whoAmI", null);
  const { returnvalue } = await queue.reaches(whoAmI, "completed");
  assert.deepEqual(returnvalue, { queue: "names", jobId: whoAmI.id, jobName: "whoAmI", attempt: 1 });
});

test("task and run options can be chosen by job", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "chosen");
  await using _ = await work(manager, server, queue, {
    task: ({ name }) => (name === "long" ? "waitForKey" : "whoAmI"),
    run: ({ name }) => (name === "long" ? { timeoutMs: 50 } : {}),
  });
  const long = await queue.reaches(await queue.add("long", "never"), "failed");
  assert.match(long.failedReason, /did not settle within 50 ms/);
  await queue.reaches(await queue.add("whatever", null), "completed");
});

test("progress and log rows of a task are in its job when the job completes", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "reports");
  await using _ = await work(manager, server, queue);
  const job = await queue.reaches(await queue.add("reports", 20), "completed");
  assert.deepEqual(job.progress, { done: 20 });
  const { logs } = await queue.getJobLogs(job.id!);
  assert.deepEqual(
    logs,
    Array.from({ length: 20 }, (_row, i) => `row ${i + 1}`),
  );
});

test("a job that blocks its thread for longer than its lock lasts keeps its lock", DEADLINE, async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  await using queue = new TestQueue(server, "blocked");
  await using jobs = await work(manager, server, queue, { lockDuration: 2_000, stalledInterval: 200 });
  let stalled = 0;
  jobs.worker.on("stalled", () => stalled++);
  const renewed = new Promise((resolve) => jobs.worker.once("locksRenewed", resolve));
  const job = await queue.reaches(await queue.add("block", 7_000), "completed");
  await renewed;
  assert.equal(stalled, 0);
  assert.equal(job.attemptsStarted, 1);
});

test("a job whose thread dies fails, and is repeated by its attempts", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "deaths");
  await using jobs = await work(manager, server, queue);
  const failures: Error[] = [];
  jobs.worker.on("failed", (_job, error) => failures.push(error));
  const job = await queue.reaches(await queue.add("dieOnce", "deaths", { attempts: 3 }), "completed");
  assert.equal(job.returnvalue, "survived");
  assert.equal(failures.length, 1);
  assert.ok(code("THREAD_DIED")(failures[0]));
  assert.equal(job.attemptsMade, 2);
});

test("a failure that every attempt would meet is not repeated", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "pointless");
  await using jobs = await work(manager, server, queue);
  const codes = new Map<string, unknown>();
  jobs.worker.on("failed", (job, error) => codes.set(job!.name, (error as { code?: unknown }).code));
  for (const name of ["ecko", "uncloneable", "giveUp"]) {
    const job = await queue.reaches(await queue.add(name, null, { attempts: 5 }), "failed");
    assert.equal(job.attemptsMade, 1, name);
  }
  assert.equal(codes.get("ecko"), "REDTHREAD_TASK_NOT_FOUND");
  assert.equal(codes.get("uncloneable"), "REDTHREAD_NOT_CLONEABLE");
  const thrown = await queue.reaches(await queue.add("throwNull", null, { attempts: 2 }), "failed");
  assert.equal(thrown.attemptsMade, 2);
});

test("cancelling a job aborts its task's signal, and so does the loss of its lock", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "cancels");
  await using jobs = await work(manager, server, queue, { lockDuration: 1_000 });
  const started = (key: string): Promise<boolean> =>
    eventually(async () => (await server.admin.get(`${key}:started`)) === "1", WAIT_MS);
  const aborted = (key: string): Promise<boolean> =>
    eventually(async () => (await server.admin.get(`${key}:aborted`)) === "REDTHREAD_TASK_ABORTED", WAIT_MS);

  const cancelled = await queue.add("untilAborted", "cancelled");
  await started("cancelled");
  assert.equal(jobs.worker.cancelJob(cancelled.id!, "enough"), true);
  const { failedReason } = await queue.reaches(cancelled, "failed");
  assert.match(failedReason, /given up by its caller: enough$/);
  await aborted("cancelled");

  const robbed = await queue.add("untilAborted", "robbed", { removeOnFail: true });
  await started("robbed");
  await server.admin.set(`bull:cancels:${robbed.id}:lock`, "another worker's");
  await aborted("robbed");
});

test(
  "close lets running jobs end, leaves the others in the queue, and closes BullMQ's connections",
  DEADLINE,
  async (t) => {
    const manager = managed(t, { threads: { count: 1 } });
    await using queue = new TestQueue(server, "closing");
    await using jobs = await work(manager, server, queue, { concurrency: 1 });
    const running = await queue.add("waitForKey", "closing");
    const waiting = await queue.add("effect", { id: 2, ms: 0 });
    await eventually(async () => (await server.admin.get("closing:started")) === "1", WAIT_MS);
    const closed = jobs.close({ drainMs: WAIT_MS });
    await server.admin.set("closing", "open");
    await closed;
    await jobs.close();
    assert.equal(await running.getState(), "completed");
    assert.equal(await waiting.getState(), "waiting");
    const foreign = (await server.clients()).filter(({ name }) => !name.startsWith("redthread:"));
    assert.equal(foreign.length, 1, "the queue's own");
  },
);

test(
  "a closing worker gives up jobs that take too long: they fail if they ran, else they go back at no cost",
  DEADLINE,
  async (t) => {
    const manager = managed(t, { threads: { count: 1, concurrency: 1 } });
    await using queue = new TestQueue(server, "late");
    const jobs = await work(manager, server, queue, { concurrency: 2 });
    const running = await queue.add("untilAborted", "late");
    await eventually(async () => (await server.admin.get("late:started")) === "1", WAIT_MS);
    const unstarted = await queue.add("effect", { id: 3, ms: 0 });
    await queue.reaches(unstarted, "active");
    await jobs.close({ drainMs: 100, closeMs: WAIT_MS });
    assert.equal((await queue.reaches(running, "failed")).attemptsMade, 1);
    assert.equal((await queue.reaches(unstarted, "waiting")).attemptsMade, 0);
  },
);

test("jobs behind a job that blocks its thread go back at no cost, too", DEADLINE, async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  await using queue = new TestQueue(server, "behind");
  const jobs = await work(manager, server, queue, { concurrency: 2 });
  const running = (count: number): Promise<unknown> =>
    eventually(() => manager.stats().threads[0]?.running === count, WAIT_MS);
  await queue.add("block", 2 * WAIT_MS);
  await running(1);
  const unstarted = await queue.add("effect", { id: 4, ms: 0 });
  await running(2);
  await jobs.close({ drainMs: 200, closeMs: WAIT_MS });
  assert.equal((await queue.reaches(unstarted, "waiting")).attemptsMade, 0);
});

test(
  "jobs that a manager in its shutdown refuses go back to the queue, and the worker takes no more",
  DEADLINE,
  async (t) => {
    const manager = managed(t);
    await using queue = new TestQueue(server, "refused");
    await using jobs = await work(manager, server, queue);
    await manager.shutdown();
    const job = await queue.add("effect", { id: 4, ms: 0 });
    await eventually(() => jobs.worker.isPaused(), WAIT_MS);
    assert.equal((await queue.reaches(job, "waiting")).attemptsMade, 0);
  },
);

test("a job for which the manager has no room comes again later, at no cost", DEADLINE, async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 1 }, queue: { max: 1 } });
  await using queue = new TestQueue(server, "full");
  await using _ = await work(manager, server, queue, { concurrency: 8 });
  const added = await queue.addBulk(
    Array.from({ length: 8 }, (_item, i) => ({ name: "effect", data: { id: 100 + i, ms: 20 } })),
  );
  for (const job of added) assert.equal((await queue.reaches(job, "completed")).returnvalue, 1);
});

test("the number of jobs at once follows the threads that are ready", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "following");
  await using jobs = await work(manager, server, queue, { jobsPerThread: 3 });
  assert.equal(jobs.worker.concurrency, 6);
  await server.admin.set("no new threads", 1);
  t.after(() => server.admin.del("no new threads"));
  await queue.add("dieOnce", "following");
  await eventually(() => jobs.worker.concurrency === 3, WAIT_MS);
  await server.admin.del("no new threads");
  await eventually(() => jobs.worker.concurrency === 6, WAIT_MS);
});

test("a concurrency that is set by hand stays", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "by hand");
  await using followed = await work(manager, server, queue);
  await using set = await work(manager, server, queue);
  set.worker.concurrency = 20;
  followed.worker.concurrency = 4; // the value that it has already
  await using following = await work(manager, server, queue);
  await server.admin.set("no new threads", 1);
  t.after(() => server.admin.del("no new threads"));
  await queue.add("dieOnce", "by hand");
  await eventually(() => following.worker.concurrency === 2, WAIT_MS);
  await eventually(() => manager.stats().threads.filter(({ state }) => state === "ready").length === 1, WAIT_MS);
  assert.deepEqual([set.worker.concurrency, followed.worker.concurrency], [20, 4]);
});
