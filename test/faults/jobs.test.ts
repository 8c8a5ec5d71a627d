import assert from "node:assert/strict";
import { test } from "node:test";
import type { Job } from "bullmq";
import type { JobServiceArgument } from "../fixtures/job-service.js";
import { eventually } from "../support/gate.js";
import { TestQueue } from "../support/jobs.js";
import { Program } from "../support/program.js";
import { startRedis } from "../support/redis-server.js";

const JOBS = 2_000;
const WAIT_MS = 60_000;

test(
  "of two processes on one queue one is killed: no job is lost, and an effect is repeated only where BullMQ says so",
  {
    timeout: 290_000,
  },
  async (t) => {
    const server = await startRedis();
    t.after(() => server.stop());
    await using queue = new TestQueue(server, "fleet");
    const start = (name: string): Program => {
      const argument: JobServiceArgument = { port: server.port, queue: queue.name, name };
      return new Program(t, "job-service", argument);
    };
    const [survivor, victim] = [start("survivor"), start("victim")];
    await Promise.all([survivor.hears("ready", WAIT_MS), victim.hears("ready", WAIT_MS)]);
    const opts = { attempts: 5 }; // a busy machine may lose a lock: then its job fails
    await queue.addBulk(Array.from({ length: JOBS }, (_job, id) => ({ name: "effect", data: { id, ms: 10 }, opts })));

    await eventually(async () => (await server.admin.hlen("effects")) >= JOBS / 4, WAIT_MS, "a quarter is done");
    victim.signal("SIGKILL");
    assert.equal((await victim.exit).signal, "SIGKILL");
    assert.ok((await queue.getCompletedCount()) < JOBS, "there was work left");
    const isOver = async (): Promise<boolean> => (await queue.getCompletedCount()) === JOBS;
    await eventually(isOver, 120_000, "all jobs are completed").catch((error: unknown) => {
      throw new Error(JSON.stringify(survivor.said.slice(-20)), { cause: error });
    });

    const done = (await queue.getCompleted(0, -1)) as Job<{ id: number }>[];
    const effects = await server.admin.hgetall("effects");
    const stalled = new Set(survivor.all("stalled").map((line) => line["stalled"]));
    assert.ok(done.some(({ processedBy }) => processedBy === "victim"));
    assert.ok(stalled.size > 0, "it was killed while jobs were running");
    for (const { id, data, stalledCounter, attemptsMade, attemptsStarted } of done) {
      const count = Number(effects[data.id]);
      const isReported = stalled.has(id) || stalledCounter > 0 || attemptsMade > 1;
      const most = isReported ? attemptsStarted : 1;
      assert.ok(count >= 1 && count <= most, `job ${id}: ${count} effects of ${attemptsStarted} starts`);
    }

    survivor.signal("SIGTERM");
    const { report } = (await survivor.hears("report", WAIT_MS)) as { report: { tasks: object; threads: object[] } };
    assert.deepEqual(report.tasks, { finished: 0, abandoned: 0 });
    assert.equal((await survivor.exit).code, 0, survivor.transcript);
  },
);

test("a service that gets a signal while its Redis is gone ends by itself", { timeout: 240_000 }, async (t) => {
  const server = await startRedis();
  t.after(() => server.stop());
  const argument: JobServiceArgument = { port: server.port, queue: "gone", name: "orphan", drainMs: 500 };
  const service = new Program(t, "job-service", argument);
  await service.hears("ready", WAIT_MS);
  await server.kill();
  service.signal("SIGTERM");
  await service.hears("report", WAIT_MS);
  const { code } = await eventually(() => service.exit, WAIT_MS, "the service has ended");
  assert.equal(code, 0, service.transcript);
});
