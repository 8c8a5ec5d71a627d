import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager } from "../../../src/index.js";
import type * as Tasks from "../../fixtures/reporting-tasks.js";
import { eventually } from "../../support/gate.js";
import { code, fixture, manage } from "../../support/manage.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

const DEADLINE = { timeout: 60_000 };
const WAIT_MS = 30_000;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

const managed = (t: TestContext): ConnectionManager<typeof Tasks> =>
  manage<typeof Tasks>(t, server, { tasks: fixture("reporting-tasks") });

test("the reports of a task reach its caller in order and before the result", DEADLINE, async (t) => {
  const manager = managed(t);
  const reports: unknown[] = [];
  const other: unknown[] = [];
  const runs = [
    manager.run("count", 100, { onReport: (value) => reports.push(value) }),
    manager.run("count", 2, { onReport: (value) => other.push(value) }),
    manager.run("count", 2), // without a listener
  ];
  assert.equal(await runs[0], "counted");
  assert.deepEqual(
    reports,
    Array.from({ length: 100 }, (_value, i) => ({ done: i + 1 })),
  );
  await Promise.all(runs);
  assert.deepEqual(other, [{ done: 1 }, { done: 2 }]);
});

test("a caller that gave up gets no more reports of its task", DEADLINE, async (t) => {
  const manager = managed(t);
  const stop = new AbortController();
  const reports: unknown[] = [];
  const task = manager.run("untilAborted", "late", { signal: stop.signal, onReport: (value) => reports.push(value) });
  await eventually(() => reports.length > 0, WAIT_MS);
  stop.abort();
  await assert.rejects(task, code("TASK_ABORTED"));
  const count = reports.length;
  await eventually(async () => (await server.admin.get("late")) === "aborted", WAIT_MS);
  await manager.run("count", 1);
  assert.equal(reports.length, count);
});

test("a listener that throws gives up its task, and the caller gets the error", DEADLINE, async (t) => {
  const manager = managed(t);
  const bug = new Error("a bug in the listener");
  const onReport = (): never => {
    throw bug;
  };
  await assert.rejects(manager.run("untilAborted", "bug", { onReport }), (error) => error === bug);
  await eventually(async () => (await server.admin.get("bug")) === "aborted", WAIT_MS);
});

test("a report that cannot be cloned throws NOT_CLONEABLE in the task", DEADLINE, async (t) => {
  const manager = managed(t);
  await assert.rejects(manager.run("reportFunction"), (error: Error & { path?: string }) => {
    assert.ok(code("NOT_CLONEABLE")(error));
    assert.equal(error.path, "report.rows[1]");
    return true;
  });
});
