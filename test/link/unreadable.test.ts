import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager, Logger } from "../../src/index.js";
import type * as Tasks from "../fixtures/unreadable-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { silent } from "../support/silent.js";
import { makeUnreadable, UNREADABLE } from "../support/unreadable.js";

// One side may post a message that the other side cannot read. Node then gives the receiver an event without the message.

const DEADLINE = { timeout: 60_000 };
const WAIT_MS = 30_000;

let server: RedisServer;
before(async () => {
  makeUnreadable();
  server = await startRedis();
});
after(() => server.stop());

async function managed(t: TestContext, logger: Logger = silent): Promise<ConnectionManager<typeof Tasks>> {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("unreadable-tasks"),
    logger,
    threads: { count: 1, execArgv: ["--import", fixture("unreadable-link").href] },
  });
  await manager.ready();
  for (const name of ["counted", "unreadableResult"] as const) {
    // Tasks of this name are known to be short now: many of them share a message.
    const input = name === "counted" ? { key: "warm", value: 0 } : "warm";
    await Promise.allSettled(Array.from({ length: 40 }, () => manager.run(name, input as never)));
  }
  await server.admin.flushall();
  return manager;
}

async function isIdle(manager: ConnectionManager<typeof Tasks>): Promise<void> {
  await eventually(() => manager.stats().threads.every(({ running }) => running === 0), WAIT_MS, "nothing runs");
  assert.equal(await manager.run("echo", "good"), "good");
}

test(
  "if a thread cannot read a message, one of its tasks is NOT_CLONEABLE, and the others run once",
  DEADLINE,
  async (t) => {
    const manager = await managed(t);
    const values = Array.from({ length: 16 }, (_, i) => (i === 7 ? UNREADABLE : i));
    const runs = await Promise.allSettled(values.map((value, i) => manager.run("counted", { key: `ran:${i}`, value })));
    for (const [i, run] of runs.entries()) {
      const ran = Number(await server.admin.get(`ran:${i}`));
      if (i === 7) {
        const { reason } = run as PromiseRejectedResult;
        assert.ok(code("NOT_CLONEABLE")(reason), String(reason));
        assert.deepEqual([(reason as { outcome?: string }).outcome, ran], ["not-sent", 0]);
      } else assert.deepEqual([(run as PromiseFulfilledResult<unknown>).value, ran], [i, 1]);
    }
    await isIdle(manager);
  },
);

test(
  "a task that is alone in an unreadable message, or has the thread to itself, is NOT_CLONEABLE",
  DEADLINE,
  async (t) => {
    const manager = await managed(t);
    const value = new Map([["input", UNREADABLE]]);
    await assert.rejects(manager.run("echo", value), code("NOT_CLONEABLE"));
    await assert.rejects(manager.run("echo", value, { exclusive: true }), code("NOT_CLONEABLE"));
    await assert.rejects(manager.run("echo", 1, { context: { value: UNREADABLE } }), code("NOT_CLONEABLE"));
    await isIdle(manager);
  },
);

test(
  "a result that the main thread cannot read is NOT_CLONEABLE, and its place in the thread is free again",
  DEADLINE,
  async (t) => {
    const manager = await managed(t);
    const good = Array.from({ length: 8 }, (_, i) => manager.run("counted", { key: "good", value: i }));
    const bad = Array.from({ length: 4 }, () => manager.run("unreadableResult", "bad"));
    for (const run of bad) {
      await assert.rejects(run, (error: Error & { outcome?: string; path?: string }) => {
        assert.ok(code("NOT_CLONEABLE")(error));
        return error.outcome === "unknown" && error.path === "result";
      });
    }
    assert.deepEqual(await Promise.all(good), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert.equal(await server.admin.get("bad"), "4");
    await isIdle(manager);
  },
);

test("if a message with several results is lost, none of their callers waits for ever", DEADLINE, async (t) => {
  const manager = await managed(t);
  const running = manager.run("untilAborted", undefined, { signal: AbortSignal.timeout(500) });
  const runs = [
    ...Array.from({ length: 4 }, () => manager.run("unreadableTogether")),
    ...Array.from({ length: 4 }, (_, i) => manager.run("echo", i)),
  ];
  for (const run of await Promise.allSettled(runs)) {
    if (run.status === "rejected") assert.ok(code("NOT_CLONEABLE")(run.reason), String(run.reason));
  }
  await assert.rejects(running, code("TASK_ABORTED")); // a task that still ran was not taken for lost
  await isIdle(manager);
});

test("a report that cannot be read is logged, and the others and the result arrive", DEADLINE, async (t) => {
  const lines: string[] = [];
  const manager = await managed(t, { ...silent, error: (line) => void lines.push(line) });
  const heard: unknown[] = [];
  const onReport = (value: unknown): void => void heard.push(value);
  assert.equal(await manager.run("unreadableReport", undefined, { onReport }), "reported");
  assert.deepEqual(heard, [1, 2]);
  await eventually(() => lines.includes("a message of a thread could not be read"), WAIT_MS);
  await isIdle(manager);
});
