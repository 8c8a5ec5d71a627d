import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { disconnect, getRedis, near } from "../../src/worker.js";
import { type InProcessOptions, runInProcess } from "../../src/testing.js";
import type * as InProcessTasks from "../fixtures/in-process-tasks.js";
import * as nearTasks from "../fixtures/near-observed-tasks.js";
import * as tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { leakCheck } from "../support/leak-check.js";
import { code, fixture } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const DEADLINE = { timeout: 60_000 };
const WAIT_MS = 30_000;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function options(t: TestContext): InProcessOptions {
  leakCheck(t, server);
  return { env: {}, redis: { port: server.port } };
}

test("tasks run in the calling thread, with its Redis and with types, and leave no connection", DEADLINE, async (t) => {
  const run = await runInProcess(tasks, options(t));
  const value: string | null = await run.run("setAndGet", { key: "own", value: "1" });
  assert.equal(value, "1");
  assert.equal(await run.run("watchAndAdd", "counter"), 1);
  const { threadId, context } = await run.run("whoAmI", undefined, { context: { request: 7 } });
  assert.deepEqual([threadId, context], [0, { request: 7 }]);
  assert.equal((await server.clients()).length, 2); // the shared one and a dedicated one
  await run.close();
  await run.close();
  assert.deepEqual(await server.clients(), []);
});

test("a tasks module can be given by its URL, and its setup and teardown run once", DEADLINE, async (t) => {
  const given = options(t);
  await server.admin.del("calls");
  {
    await using run = await runInProcess<typeof InProcessTasks>(fixture("in-process-tasks"), given);
    await Promise.all([run.run("call", "a"), run.run("call", "b")]);
  }
  assert.deepEqual(await server.admin.lrange("calls", 0, -1), ["setup", "a", "b", "teardown"]);
});

test("input, result and errors are as from a thread", DEADLINE, async (t) => {
  await using run = await runInProcess(tasks, options(t));
  const input = { list: [1, { at: new Date(0) }], bytes: new Uint8Array(3) };
  const result = await run.run("echo", input);
  assert.deepEqual(result, input);
  assert.notEqual(result.list, input.list);
  const moved = new Uint8Array(8);
  assert.equal(await run.run("receive", moved, { transferList: [moved.buffer] }), 8);
  assert.equal(moved.byteLength, 0);
  assert.equal((await run.run("bytes", 5)).length, 5);

  await assert.rejects(run.run("echo", { fn: () => {} }), code("NOT_CLONEABLE"));
  await assert.rejects(run.run("uncloneable"), (error: { path?: string }) => error.path === "result.rows[1].onDone");
  await assert.rejects(run.run("ecko" as "echo", 1), code("TASK_NOT_FOUND"));
  await assert.rejects(run.run("echo", 1, { timeoutMs: -1 }), code("CONFIG_INVALID"));
  await assert.rejects(run.run("fail", "redthread"), code("NEEDS_DEDICATED"));
  await assert.rejects(run.run("fail", "null"), (error) => error === null);
  await assert.rejects(run.run("fail", "type"), (error: Error & { detail?: unknown }) => {
    assert.ok(error instanceof TypeError && error.cause instanceof RangeError);
    assert.deepEqual(error.detail, { n: 1 });
    return true;
  });
});

test("timeouts, signals, reports and log lines reach the caller", DEADLINE, async (t) => {
  const lines: [message: string, fields: Record<string, string | number>][] = [];
  const info = (message: string, fields: object = {}): void => void lines.push([message, { ...fields }]);
  const logger = { ...silent, info };
  await using run = await runInProcess<typeof InProcessTasks>(fixture("in-process-tasks"), {
    ...options(t),
    logger,
  });
  const heard: unknown[] = [];
  assert.equal(await run.run("count", 3, { onReport: (value) => heard.push(value) }), "counted");
  assert.deepEqual(heard, [1, 2, 3]);
  await assert.rejects(run.run("untilAborted", undefined, { timeoutMs: 20 }), code("TASK_TIMEOUT"));
  const stop = new AbortController();
  const waiting = run.run("untilAborted", undefined, { signal: stop.signal });
  stop.abort();
  await assert.rejects(waiting, code("TASK_ABORTED"));
  await run.run("log", "a line");
  await eventually(() => lines.length === 1, WAIT_MS);
  const [message, { taskId, ...fields }] = lines[0]!;
  assert.deepEqual([message, fields], ["a line", { threadId: 0, task: "log" }]);
  assert.match(String(taskId), /^[0-9a-f]{24}-4$/);
});

test("map, stats and ready work as in a manager", DEADLINE, async (t) => {
  const run = await runInProcess(tasks, options(t));
  await run.ready();
  const digests: string[] = [];
  for await (const value of run.map("echo", ["a", "b", "c"])) digests.push(value as string);
  assert.deepEqual(digests, ["a", "b", "c"]);
  await run.run("incr", "counted");
  const { tasks: tally, threads, connections, breaker, totals } = run.stats();
  assert.equal(tally.done, 4);
  assert.deepEqual([connections.open, breaker.state, totals.acquires], [1, "closed", 1]);
  const [{ state, done, running } = assert.fail()] = threads;
  assert.deepEqual([threads.length, state, done, running], [1, "ready", 4, 0]);
  await run.close();
  await assert.rejects(run.ready(), code("SHUTTING_DOWN"));
  await assert.rejects(run.map("echo", [1]).next(), code("SHUTTING_DOWN"));
});

test("the near cache works as in a thread, and close ends its keeper", DEADLINE, async (t) => {
  await using run = await runInProcess(nearTasks, { ...options(t), nearCache: { prefixes: ["model:"] } });
  await eventually(() => (run.stats().near?.leaseMs ?? 0) > 0, WAIT_MS, "values may be served");
  await run.run("write", { key: "model:1", value: "first" });
  // On a busy machine nothing may be served for a moment, and Redis is asked.
  await eventually(
    async () => {
      assert.equal(await run.run("read", "model:1"), "first");
      return run.stats().near!.totals.hits.own > 0;
    },
    WAIT_MS,
    "a read is a hit",
  );
  await run.run("write", { key: "model:1", value: "second" });
  assert.equal(await run.run("read", "model:1"), "second");
  const { near: numbers, threads } = run.stats();
  assert.deepEqual(threads[0]!.near, numbers!.totals);
  await run.close();
  await assert.rejects(near.get("model:1"), code("CONFIG_INVALID"));
});

test("close waits for the running tasks, and then no task is taken", DEADLINE, async (t) => {
  const run = await runInProcess(tasks, options(t));
  const last = run.run("delayed", 100);
  const closed = run.close();
  await assert.rejects(run.run("echo", 1), code("SHUTTING_DOWN"));
  assert.equal(await last, 100);
  await closed;
});

test("a task that ignores its signal is given up by close, and the process lives on", DEADLINE, async (t) => {
  const given = { ...options(t), shutdown: { drainMs: 50, closeMs: 200 } };
  const run = await runInProcess(tasks, given);
  const deaf = run.run("stubborn", { started: "deaf", until: "never" }, { exclusive: true });
  const failed = assert.rejects(deaf, code("TASK_ABORTED"));
  await eventually(async () => (await server.admin.get("deaf")) === "1", WAIT_MS);
  await run.close();
  await failed;
});

test(
  "a setup that fails is THREAD_START_FAILED with the cause, and the next runInProcess() can start",
  DEADLINE,
  async (t) => {
    const given = options(t);
    for (const name of ["setup-rejects", "throws-at-import"]) {
      await assert.rejects(runInProcess(fixture(name), given), code("THREAD_START_FAILED"));
    }
    await using run = await runInProcess(tasks, given);
    await assert.rejects(runInProcess(tasks, given), /open in this thread already/);
    assert.equal(await run.run("echo", 1), 1);
  },
);

test("the thread's own clients are closed before, and connect again after", DEADLINE, async (t) => {
  const given = options(t);
  const previous = process.env["REDIS_URL"];
  process.env["REDIS_URL"] = server.url;
  t.after(() => {
    if (previous === undefined) delete process.env["REDIS_URL"];
    else process.env["REDIS_URL"] = previous;
  });
  await (await getRedis()).set("direct", 1);
  const run = await runInProcess(tasks, given);
  assert.equal((await server.clients()).length, 0);
  await run.close();
  assert.equal(await (await getRedis()).get("direct"), "1");
  await disconnect();
});
