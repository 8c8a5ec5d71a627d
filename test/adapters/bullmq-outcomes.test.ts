import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { type Job, UnrecoverableError } from "bullmq";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/job-class-tasks.js";
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
  return manage<typeof Tasks>(t, server, { tasks: fixture("job-class-tasks"), threads: { count: 1 }, ...overrides });
}

test("a task that throws an error like the manager's own fails like any other", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "origins");
  await using jobs = await work(manager, server, queue);
  const outcomes = {
    THREAD_START_FAILED: "refused",
    QUEUE_FULL: "refused",
    SHUTTING_DOWN: "refused",
    TASK_ABORTED: "not-sent",
  };
  for (const [name, outcome] of Object.entries(outcomes)) {
    for (const isError of [true, false]) {
      const data = { isError, code: `REDTHREAD_${name}`, outcome };
      const job = await queue.reaches(await queue.add("failAs", data, { attempts: 2 }), "failed");
      assert.equal(job.attemptsMade, 2, name);
      if (isError) assert.equal(job.failedReason, "its own");
    }
  }
  assert.equal(jobs.worker.isPaused(), false);
});

test(
  "a job whose task throws a subclass of UnrecoverableError is not repeated, and keeps its error",
  DEADLINE,
  async (t) => {
    const manager = managed(t);
    await using queue = new TestQueue(server, "classes");
    await using jobs = await work(manager, server, queue);
    const failures: (Error & { reason?: string })[] = [];
    jobs.worker.on("failed", (_job, error) => failures.push(error));
    const job = await queue.reaches(await queue.add("decline", null, { attempts: 5 }), "failed");
    assert.equal(job.attemptsMade, 1);
    assert.equal(job.failedReason, "card declined");
    assert.deepEqual(
      failures.map(({ name, reason }) => [name, reason]),
      [["CardDeclined", "stolen"]],
    );
    assert.ok(failures[0] instanceof UnrecoverableError);
  },
);

test("the outcome of a cancelled job is its task's result or error", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "cancelled");
  await using jobs = await work(manager, server, queue);
  const cancel = async (how: string): Promise<Job> => {
    const job = await queue.add("endWhenCancelled", { key: how, how }, { attempts: 3 });
    await eventually(async () => (await server.admin.get(how)) === "1", WAIT_MS);
    assert.equal(jobs.worker.cancelJob(job.id!, "user clicked stop"), true);
    return job;
  };
  const partial = await queue.reaches(await cancel("partial"), "completed");
  assert.deepEqual(partial.returnvalue, { partial: "user clicked stop" });
  assert.equal(partial.attemptsMade, 1);
  const unrecoverable = await queue.reaches(await cancel("unrecoverable"), "failed");
  assert.deepEqual([unrecoverable.attemptsMade, unrecoverable.failedReason], [1, "given up for good"]);
  for (const how of ["partial", "unrecoverable"]) assert.equal(await server.admin.get(`${how}:cleaned up`), "1");
});

test("a job's failedReason says why it was cancelled", DEADLINE, async (t) => {
  const manager = managed(t, { shutdown: { cancelGraceMs: 100 } });
  await using queue = new TestQueue(server, "reasons");
  await using jobs = await work(manager, server, queue);
  for (const how of ["reason", "deaf"] as const) {
    const job = await queue.add("endWhenCancelled", { key: `why ${how}`, how });
    await eventually(async () => (await server.admin.get(`why ${how}`)) === "1", WAIT_MS);
    jobs.worker.cancelJob(job.id!, "user clicked stop");
    assert.match((await queue.reaches(job, "failed")).failedReason, /given up by its caller.*: user clicked stop$/);
  }
  assert.equal(manager.stats().died, 0);
});

test("a task that says that its job was moved, and moved nothing, fails for good", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "unmoved");
  await using _ = await work(manager, server, queue);
  const job = await queue.reaches(await queue.add("moveNothing", null, { attempts: 3 }), "failed");
  assert.equal(job.attemptsMade, 1);
  assert.match(job.failedReason, /DelayedError, but moved its job nowhere/);
});

test("a task's RateLimitError gives its job back, at the cost of no attempt", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "limited");
  await using jobs = await work(manager, server, queue);
  await jobs.worker.rateLimit(100);
  const job = await queue.reaches(await queue.add("limitOnce", "limited"), "completed");
  assert.deepEqual([job.returnvalue, job.attemptsMade], ["not limited", 1]);
});

test("bytes that a task returns are stored in its job like a Buffer's", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "bytes");
  await using _ = await work(manager, server, queue);
  for (const kind of ["Buffer", "Uint8Array", "large"]) {
    const { returnvalue } = await queue.reaches(await queue.add("bytes", kind), "completed");
    const expected = kind === "large" ? "a".repeat(10_000) : "ab";
    assert.equal(Buffer.from(returnvalue as Uint8Array).toString(), expected, kind);
  }
});

test("options that would be ignored are refused by name", DEADLINE, async (t) => {
  const manager = managed(t);
  const refused = (options: object): Promise<void> =>
    assert.rejects(
      work(manager, server, { name: "refusing" }, options as never),
      (error: { problems?: readonly string[] }) => {
        assert.ok(code("CONFIG_INVALID")(error));
        assert.equal(error.problems?.length, 2);
        return error.problems.every((problem) => problem.endsWith(" is no option of createWorker"));
      },
    );
  await refused({ useWorkerThreads: true, timeoutMs: 50 });
  await refused({ taskId: "bytes", drainMs: 50 });
  await refused({ run: { onReport: () => {}, taskId: 7, priority: 1 } });
  await using queue = new TestQueue(server, "refusing");
  await using _ = await work(manager, server, queue, { run: () => ({ context: {} }) as never });
  const job = await queue.reaches(await queue.add("bytes", "Buffer", { attempts: 3 }), "failed");
  assert.deepEqual([job.attemptsMade, job.failedReason], [1, "run.context is no option of createWorker"]);
});

test("with autorun: false jobs are taken from worker.run() on", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "later");
  await using jobs = await work(manager, server, queue, { autorun: false });
  const job = await queue.add("limitOnce", "later");
  await server.admin.set("later", 1);
  await jobs.worker.waitUntilReady();
  assert.equal(jobs.worker.isRunning(), false);
  assert.equal(await job.getState(), "waiting");
  const over = jobs.worker.run();
  await queue.reaches(job, "completed");
  await jobs.close();
  await over;
});
