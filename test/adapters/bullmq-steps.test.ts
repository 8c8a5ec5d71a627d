import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { FlowProducer } from "bullmq";
import type { ConnectionManager } from "../../src/index.js";
import { runInProcess } from "../../src/testing.js";
import * as tasks from "../fixtures/job-step-tasks.js";
import { eventually } from "../support/gate.js";
import { TestQueue, work } from "../support/jobs.js";
import { leakCheck } from "../support/leak-check.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const DEADLINE = { timeout: 60_000 };
const WAIT_MS = 30_000;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function managed(t: TestContext): ConnectionManager<typeof tasks> {
  return manage<typeof tasks>(t, server, { tasks: fixture("job-step-tasks"), threads: { count: 1 } });
}

test("a task moves its job and goes on where its data says, at the cost of no attempt", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "steps");
  await using _ = await work(manager, server, queue);
  const job = await queue.reaches(await queue.add("steps", { step: "first" }), "completed");
  assert.equal(job.returnvalue, "steps of steps is over");
  assert.deepEqual([job.attemptsStarted, job.attemptsMade, job.progress], [3, 1, 100]);
  assert.deepEqual(job.data, { step: "last" });
  assert.deepEqual((await queue.getJobLogs(job.id!)).logs, ["over"]);
});

test("a task waits for children that are added while it runs, and has their values", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "gather");
  await using _ = await work(manager, server, queue);
  const parent = await queue.add("gather", "gathered");
  await eventually(async () => (await server.admin.get("gathered:started")) === "1", WAIT_MS);
  const options = { parent: { id: parent.id!, queue: queue.qualifiedName } };
  for (const value of [1, 2]) await queue.add("child", value, options);
  await queue.add("child", -1, { ...options, ignoreDependencyOnFailure: true });
  await server.admin.set("gathered", 1);
  const { returnvalue } = await queue.reaches(parent, "completed");
  assert.deepEqual(returnvalue, {
    values: [1, 2].map((value) => ({ value, parent: parent.id })),
    counts: { processed: 2, unprocessed: 0, ignored: 1, failed: 0 },
    ignored: ["below zero"],
  });
});

test("the parent of a flow has its children's values", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "flows");
  await using _ = await work(manager, server, queue);
  await server.admin.set("flow", 1);
  const flows = new FlowProducer({ connection: { host: "127.0.0.1", port: server.port } });
  const child = { name: "child", queueName: queue.name, data: 7 };
  const flow = await flows.add({ name: "gather", queueName: queue.name, data: "flow", children: [child] });
  const job = (await queue.getJob(flow.job.id!))!; // with the queue's connection
  await flows.close();
  const { returnvalue } = await queue.reaches(job, "completed");
  assert.deepEqual((returnvalue as { values: unknown }).values, [{ value: 7, parent: job.id }]);
});

test("a call that BullMQ refuses rejects in the task with BullMQ's error", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "anothers");
  await using _ = await work(manager, server, queue);
  const job = await queue.reaches(await queue.add("moveAnothers", null), "failed");
  assert.match(job.failedReason, /[Ll]ock/);
});

test("a question that cannot be asked leaves nothing behind", DEADLINE, async (t) => {
  const manager = managed(t);
  await using queue = new TestQueue(server, "unasked");
  await using _ = await work(manager, server, queue);
  const job = await queue.reaches(await queue.add("askUncloneable", null), "completed");
  assert.deepEqual(job.returnvalue, { code: "REDTHREAD_NOT_CLONEABLE", left: 0 });
});

test("jobOf() rejects in a task that does not run as a job, also if it looks like one", DEADLINE, async (t) => {
  const manager = managed(t);
  await assert.rejects(manager.run("child", 1), /runs as no job/);
  await assert.rejects(manager.run("child", 1, { context: { jobId: "1" } }), /did not answer asJSONSandbox within/);
});

test("jobs run in the thread of a test, too", DEADLINE, async (t) => {
  leakCheck(t, server);
  await using queue = new TestQueue(server, "in process");
  await using run = await runInProcess(tasks, { env: {}, redis: { port: server.port } });
  await using jobs = await work(run, server, queue, { task: () => "steps" });
  assert.equal(jobs.worker.concurrency, 2);
  const job = await queue.reaches(await queue.add("whatever", { step: "first" }), "completed");
  assert.equal(job.returnvalue, "whatever of in process is over");
});
