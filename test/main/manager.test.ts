import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { after, before, test, type TestContext } from "node:test";
import { createLogger, format, transports } from "winston";
import { ConnectionManager, type Logger, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function managed(t: TestContext, overrides: Partial<ManagerOptions> = {}): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), ...overrides });
}

test("a task runs in a thread with that thread's own cached client", async (t) => {
  const manager = managed(t);
  await manager.ready();
  const value = await manager.run("setAndGet", { key: "a", value: "1" });
  assert.equal(value, "1");
  const { threadId, context } = await manager.run("whoAmI", undefined, { context: { request: 7 } });
  assert.ok(threadId > 0);
  assert.deepEqual(context, { request: 7 });
});

test("fifty first acquires in a thread make one connection and give one handle", async (t) => {
  const manager = managed(t, { threads: { count: 1 }, appName: "fifty app" });
  const { handles, name } = await manager.run("firstAcquires");
  assert.equal(handles, 1);
  assert.match(name!, /^redthread:fifty-app:[\w.-]+:\d+:\d+:thread$/);
  assert.equal((await server.clients()).length, 1);
});

test("a task's own error reaches the caller as thrown", async (t) => {
  const manager = managed(t);
  await assert.rejects(manager.run("fail", "type"), (error: Error & { detail?: unknown }) => {
    assert.ok(error instanceof TypeError);
    assert.equal(error.message, "bad input");
    assert.equal((error as { code?: string }).code, "E_OWN");
    assert.deepEqual(error.detail, { n: 1 });
    assert.ok(error.cause instanceof RangeError);
    assert.equal(error.cause.cause, "deepest");
    assert.match(error.stack!, /fixtures\/tasks/);
    return true;
  });
  await assert.rejects(manager.run("fail", "aggregate"), (error: AggregateError) => {
    assert.deepEqual(
      error.errors.map(({ message }: Error) => message),
      ["one", "two"],
    );
    return error instanceof AggregateError;
  });
  await assert.rejects(manager.run("fail", "redthread"), code("NEEDS_DEDICATED"));
  await assert.rejects(manager.run("fail", "null"), (error) => error === null);
});

test("the error of an unknown task names the tasks that exist", async (t) => {
  const manager = managed(t);
  await assert.rejects(manager.run("ecko" as "echo", 1), (error: Error & { tasks?: string[] }) => {
    assert.ok(code("TASK_NOT_FOUND")(error));
    assert.ok(error.tasks!.includes("echo"));
    assert.match(error.message, /"ecko" \(did you mean "echo"\?\); it exports .*setAndGet/);
    return true;
  });
  // @ts-expect-error -- a cache is not a task
  await assert.rejects(manager.run("lengthOf", "1"), (error: Error & { tasks?: string[] }) => {
    return code("TASK_NOT_FOUND")(error) && !error.tasks!.includes("lengthOf");
  });
});

test("after disconnect() a task's next client is its manager's again, and counted", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  const [shared, dedicated] = (await manager.run("reconnect", "disconnected")).slice(2);
  const { threadId, acquires } = manager.stats().threads[0]!;
  assert.match(shared!, new RegExp(`:${threadId}:thread$`));
  assert.match(dedicated!, new RegExp(`:${threadId}:dedicated$`));
  assert.equal(await server.admin.get("disconnected"), "2");
  assert.equal(acquires, 4);
  await manager.getRedis();
  await eventually(() => manager.stats().connections.open === 3, 5_000); // the primary, the thread's and its dedicated client
});

test("a task's id is the same in the task and in its log lines, and unique over managers", async (t) => {
  const lines: Record<string, unknown>[] = [];
  const info = (_: string, fields: object = {}): void => void lines.push({ ...fields });
  const managers = [managed(t, { logger: { ...silent, info } }), managed(t)];
  const runs = managers.flatMap((manager) => [1, 2, 3].map(() => manager.run("whoAmI")));
  const ids = (await Promise.all(runs)).map(({ taskId }) => taskId);
  assert.equal(new Set(ids).size, ids.length);
  for (const id of ids) assert.match(id, /^[0-9a-f]{24}-\d+$/);
  await managers[0]!.run("log", "here");
  await eventually(() => lines.some(({ task }) => task === "log"));
  const { taskId } = lines.find(({ task }) => task === "log")!;
  assert.equal(taskId, ids[0]!.replace(/\d+$/, "4"));
});

test("the error of an input that cannot be cloned names its path, and the tasks beside it run", async (t) => {
  const manager = managed(t);
  const good = manager.run("echo", 1);
  const bad = manager.run("echo", { list: [1, { fn: () => {} }] });
  await assert.rejects(bad, (error: Error & { path?: string }) => {
    assert.ok(code("NOT_CLONEABLE")(error));
    assert.equal(error.path, "input.list[1].fn");
    assert.match(error.message, /task echo/);
    return true;
  });
  assert.equal(await good, 1);
  await assert.rejects(manager.run("echo", 1, { context: () => {} }), code("NOT_CLONEABLE"));
});

test("a result that cannot be cloned rejects NOT_CLONEABLE, and the thread lives on", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  const [bad, good] = await Promise.allSettled([manager.run("uncloneable"), manager.run("echo", 2)]);
  assert.equal(bad.status, "rejected");
  assert.ok(code("NOT_CLONEABLE")(bad.reason));
  assert.equal((bad.reason as { path?: string }).path, "result.rows[1].onDone");
  assert.deepEqual(good, { status: "fulfilled", value: 2 });
});

test("buffers move in both directions without a copy where the caller asks for it", async (t) => {
  const manager = managed(t);
  const input = new Uint8Array(1_000);
  assert.equal(await manager.run("receive", input, { transferList: [input.buffer] }), 1_000);
  assert.equal(input.byteLength, 0);
  const result = await manager.run("bytes", 64);
  assert.equal(result.length, 64);
  assert.equal(result[63], 7);
});

test("a full queue takes no task, and the tasks that it has taken still run", async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 1 }, queue: { max: 2 } });
  const taken = [manager.run("echo", 1), manager.run("echo", 2)];
  await assert.rejects(manager.run("echo", 3), code("QUEUE_FULL"));
  assert.deepEqual(await Promise.all(taken), [1, 2]);
});

test("a timeout aborts the task's signal and says where the task was", async (t) => {
  const manager = managed(t);
  await manager.ready();
  await assert.rejects(manager.run("waitForKey", "never", { timeoutMs: 50 }), code("TASK_TIMEOUT"));
  // The signal reached the task: without it the thread would still count the task.
  await eventually(() => manager.stats().threads.every(({ running }) => running === 0));
});

test("after its caller's signal a waiting task is not-sent, and a running task unknown", async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 1 } });
  await manager.ready();
  const stop = new AbortController();
  const running = manager.run("waitForKey", "never", { signal: stop.signal });
  const waiting = manager.run("echo", 1, { signal: stop.signal });
  await eventually(() => manager.stats().threads.some(({ running: n }) => n === 1));
  stop.abort(new Error("enough"));
  for (const [task, outcome] of [
    [running, "unknown"],
    [waiting, "not-sent"],
  ] as const) {
    await assert.rejects(task, (error: Error & { outcome?: string }) => {
      assert.ok(code("TASK_ABORTED")(error));
      assert.equal(error.outcome, outcome);
      assert.equal((error.cause as Error).message, "enough");
      return true;
    });
  }
  assert.equal(await manager.run("echo", 2), 2);
});

test("with awaitOutcome the outcome of an aborted task counts for cancelGraceMs", async (t) => {
  const manager = managed(t, { shutdown: { cancelGraceMs: 200 } });
  await manager.ready();
  const given = (started: string): [Promise<string>, AbortController] => {
    const stop = new AbortController();
    const until = `${started}:until`;
    return [manager.run("stubborn", { started, until }, { signal: stop.signal, awaitOutcome: true }), stop];
  };
  const [own, stopOwn] = given("own");
  await eventually(async () => (await server.admin.get("own")) === "1");
  const throwing = new AbortController();
  const thrown = manager.run("waitForKey", "never", { signal: throwing.signal, awaitOutcome: true });
  await eventually(() => manager.stats().threads.reduce((sum, { running }) => sum + running, 0) === 2);
  await server.admin.set("own:until", "its result");
  stopOwn.abort();
  throwing.abort("user left");
  assert.equal(await own, "its result");
  await assert.rejects(thrown, /^TaskAbortedError: task waitForKey was given up by its caller: user left$/);
  const [deaf, stopDeaf] = given("deaf");
  await eventually(async () => (await server.admin.get("deaf")) === "1");
  stopDeaf.abort("user left");
  await assert.rejects(deaf, /was given up by its caller's signal: user left$/);
  await server.admin.set("deaf:until", 1);
});

test("a hundred tasks that share a signal are all given up, without a warning of a leak", async (t) => {
  const warnings: string[] = [];
  const onWarning = ({ name }: Error): number => warnings.push(name);
  process.on("warning", onWarning);
  t.after(() => process.off("warning", onWarning));
  const manager = managed(t);
  const stop = new AbortController();
  const tasks = Array.from({ length: 100 }, () => manager.run("waitForKey", "never", { signal: stop.signal }));
  await eventually(() => manager.stats().threads.every(({ running }) => running === 32));
  stop.abort();
  for (const task of await Promise.allSettled(tasks)) {
    assert.ok(task.status === "rejected" && code("TASK_ABORTED")(task.reason));
  }
  assert.equal(manager.stats().queue.size, 0);
  assert.deepEqual(warnings, []);
});

test("no other task runs in the thread of an exclusive task", async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 4 } });
  await manager.ready();
  const earlier = manager.run("waitForKey", "gate");
  const exclusive = manager.run("stubborn", { started: "alone", until: "gate2" }, { exclusive: true });
  const behind = manager.run("echo", "behind");
  let passed = false;
  void behind.then(() => (passed = true));
  assert.equal(await server.admin.get("alone"), null);
  await server.admin.set("gate", "open");
  await earlier;
  await eventually(async () => (await server.admin.get("alone")) === "1");
  assert.equal(passed, false);
  assert.equal(manager.stats().threads[0]!.running, 1);
  await server.admin.set("gate2", "open");
  assert.equal(await exclusive, "open");
  assert.equal(await behind, "behind");
});

test("a thread that was reserved for an exclusive task is free once the task is given up", async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 4 } });
  await manager.ready();
  const earlier = manager.run("waitForKey", "gate3");
  await assert.rejects(
    manager.run("echo", "alone", { exclusive: true, signal: AbortSignal.timeout(50) }),
    code("TASK_ABORTED"),
  );
  assert.equal(await manager.run("echo", "behind", { timeoutMs: 10_000 }), "behind");
  await server.admin.set("gate3", "open");
  await earlier;
});

test("a thread that dies rejects its own tasks with the reason, and is replaced", async (t) => {
  const manager = managed(t);
  await manager.ready();
  const elsewhere = manager.run("waitForKey", "later");
  const born = new Set(manager.stats().threads.map(({ threadId }) => threadId));
  await assert.rejects(manager.run("exit", 3), (error: Error & { threadId?: number }) => {
    assert.ok(code("THREAD_DIED")(error), String(error));
    assert.ok(born.has(error.threadId!));
    assert.match((error.cause as Error).message, /3/);
    return true;
  });
  await server.admin.set("later", "yes");
  assert.equal(await elsewhere, "yes");
  await eventually(() => manager.stats().threads.filter(({ state }) => state === "ready").length === 2);
  assert.equal(await manager.run("echo", "again"), "again");
});

for (const [name, message] of [
  ["throws-at-import", "this module is broken"],
  ["setup-rejects", "setup says no"],
]) {
  test(`a tasks module that ${name!.replaceAll("-", " ")} fails ready() and every waiting run with the cause`, async (t) => {
    const manager = managed(t, { tasks: fixture(name!) });
    const attempts = [manager.ready(), manager.run("echo", 1), manager.run("echo", 2)];
    for (const attempt of await Promise.allSettled(attempts)) {
      assert.equal(attempt.status, "rejected");
      assert.ok(code("THREAD_START_FAILED")(attempt.reason), String(attempt.reason));
      assert.equal((attempt.reason as { cause: Error }).cause.message, message);
    }
    await assert.rejects(manager.run("echo", 3), code("THREAD_START_FAILED"));
  });
}

test("a thread whose setup fails while others serve is started again, and ready() rejects", async (t) => {
  await server.admin.del("setups");
  const manager = managed(t, {
    tasks: fixture("setup-rejects-once"),
  });
  await assert.rejects(manager.ready(), code("THREAD_START_FAILED"));
  await eventually(() => manager.stats().threads.filter(({ state }) => state === "ready").length === 2);
  await manager.ready();
  assert.equal(await server.admin.get("setups"), "3");
});

test("one error names all wrong options, before anything is opened", () => {
  assert.throws(
    () =>
      new ConnectionManager({
        tasks: "relative.js",
        env: {},
        threads: { count: 0 },
        redis: { port: 99_999, ioredis: { retryStrategy: () => 1 } as object },
      }),
    (error: Error & { problems?: string[] }) => {
      assert.ok(code("CONFIG_INVALID")(error));
      for (const part of ["tasks", "threads.count", "redis.port", "retryStrategy"]) {
        assert.ok(error.message.includes(part), `${part} in ${error.message}`);
      }
      return true;
    },
  );
});

test("after the shutdown no task is taken, and all calls of shutdown() share one report", async (t) => {
  const manager = managed(t);
  await manager.ready();
  const [first, second] = await Promise.all([manager.shutdown(), manager.shutdown()]);
  assert.equal(first, second);
  assert.deepEqual(first.tasks, { finished: 0, abandoned: 0 });
  assert.equal(first.threads.length, 2);
  assert.ok(first.threads.every(({ outcome }) => outcome === "graceful"));
  await assert.rejects(manager.run("echo", 1), code("SHUTTING_DOWN"));
  await assert.rejects(manager.getRedis(), code("SHUTTING_DOWN"));
  await assert.rejects(manager.ready(), code("SHUTTING_DOWN"));
  assert.deepEqual(manager.health(), { live: false, ready: false, reasons: ["shut down"] });
});

test("a lame duck takes tasks but is not ready, and the shutdown waits for these tasks", async (t) => {
  const manager = managed(t, { threads: { count: 1, concurrency: 1 } });
  await manager.ready();
  assert.deepEqual(manager.health(), { live: true, ready: true, reasons: [] });
  const done = manager.shutdown({ lameDuckMs: 200 });
  assert.equal(manager.health().ready, false);
  const tasks = Array.from({ length: 10 }, (_, i) => manager.run("setAndGet", { key: `duck:${i}`, value: "x" }));
  assert.ok((await Promise.all(tasks)).every((value) => value === "x"));
  assert.equal((await done).tasks.abandoned, 0);
});

test("a thread's log lines arrive on the main thread with their task", async (t) => {
  const lines: [string, Record<string, unknown>][] = [];
  const manager = managed(t, {
    logger: { ...silent, info: (message, fields) => lines.push([message, fields ?? {}]) },
  });
  await manager.run("log", "hello from a thread");
  await eventually(() => lines.some(([message]) => message === "hello from a thread"));
  const [, fields] = lines.find(([message]) => message === "hello from a thread")!;
  assert.equal(fields["task"], "log");
  assert.equal(fields["n"], 1);
  assert.equal(typeof fields["threadId"], "number");
});

test("a winston instance as logger writes every line by its own formats, levels and transports", async (t) => {
  const output = new PassThrough({ encoding: "utf8" });
  const written = (): string[] => texts.join("").split("\n").slice(0, -1);
  const texts: string[] = [];
  output.on("data", (chunk: string) => texts.push(chunk));
  const stamped = format((info) => ({ ...info, format: "of its own" }));
  const logger = createLogger({
    level: "info",
    defaultMeta: { service: "tickets" },
    format: format.combine(stamped(), format.json()),
    transports: [new transports.Stream({ stream: output, eol: "\n" })],
  });
  const manager = managed(t, { logger, threads: { count: 1 }, log: { level: "debug" } });
  await manager.run("log", "hello from a thread", { context: { request: 7 } });
  await eventually(() => written().some((line) => line.includes("hello from a thread")));
  await manager.shutdown();
  const records = written().map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.ok(records.every(({ service, format: by }) => service === "tickets" && by === "of its own"));
  assert.ok(records.some(({ message }) => message === "shut down"));
  assert.ok(records.every(({ level }) => level !== "debug"));
  const { threadId, taskId, ...rest } = records.find(({ message }) => message === "hello from a thread")!;
  assert.ok(Number(threadId) > 0 && String(taskId).length > 1);
  assert.deepEqual(rest, {
    level: "info",
    message: "hello from a thread",
    password: "[hidden]",
    n: 1,
    task: "log",
    context: { request: 7 },
    service: "tickets",
    format: "of its own",
  });
  logger.info("its owner goes on writing");
  await eventually(() => written().some((line) => line.includes("its owner goes on writing")));
});

test("a logger that makes children writes the lines of threads and tasks by children", async (t) => {
  const lines: [string, object, object | undefined][] = [];
  const bearing = (bound: object): Logger => ({
    ...silent,
    info: (message, fields) => void lines.push([message, bound, fields]),
    child: (more) => bearing({ ...bound, ...more }),
  });
  const manager = managed(t, { logger: bearing({}), threads: { count: 1 } });
  const { threadId } = await manager.run("whoAmI");
  await manager.run("log", "hello from a child", { context: 1 });
  await eventually(() => lines.some(([message]) => message === "hello from a child"));
  const [, bound, fields] = lines.find(([message]) => message === "hello from a child")!;
  const { taskId, ...rest } = bound as { taskId: string };
  assert.equal(typeof taskId, "string");
  assert.deepEqual(rest, { threadId, task: "log", context: 1 });
  assert.deepEqual(fields, { password: "[hidden]", n: 1 });
});

for (const sharded of [false, true]) {
  const kind = sharded ? "sharded subscription" : "subscription";
  test(`a ${kind} gets messages, is back after its connection was killed, tells of the gap, and ends`, async (t) => {
    const manager = managed(t, { redis: { keyPrefix: "app:" } });
    const publish = (message: string): Promise<unknown> =>
      sharded ? server.admin.spublish("app:news", message) : server.admin.publish("news", message);
    const received: string[] = [];
    let gaps = 0;
    const listen = (message: string, channel: string): number => received.push(`${channel} ${message}`);
    const stop = await manager.subscribe("news", listen, { sharded, onGap: () => gaps++ });
    await publish("one");
    await eventually(() => received.length === 1);
    const subscriber = (await server.clients()).find(({ name }) => name.endsWith(":subscriber"))!;
    await server.admin.client("KILL", "ID", subscriber.id);
    await eventually(() => gaps === 1);
    await publish("two");
    await eventually(() => received.length === 2);
    await stop();
    await stop();
    assert.equal(await publish("three"), 0);
    assert.deepEqual(received, ["news one", "news two"]);
  });
}

test("stats() shows the primary, the connections and each thread without a message to a thread", async (t) => {
  const manager = managed(t, { threads: { count: 1 } });
  await manager.ready();
  await manager.run("setAndGet", { key: "s", value: "1" });
  await manager.run("watchAndAdd", "n");
  await manager.run("fail", "x").catch(() => {});
  const stats = manager.stats();
  assert.equal(stats.primary.state, "connected");
  assert.deepEqual(stats.connections, { open: 3, max: null, connecting: 0 });
  assert.deepEqual(stats.breaker, { state: "closed" });
  const [thread] = stats.threads;
  assert.equal(thread!.state, "ready");
  assert.deepEqual([thread!.running, thread!.done, thread!.failed, thread!.acquires], [0, 2, 1, 2]);
  const { closed, ...numbers } = thread!.dedicated;
  assert.deepEqual(numbers, { out: 0, idle: 1, waiting: 0, max: 4 });
  assert.ok(Object.values(closed).every((count) => count === 0));
});

test("the share of time in which a thread's loop was busy is right from the first call on", async (t) => {
  const manager = managed(t, { threads: { count: 6 } });
  await manager.ready();
  // The threads have just loaded their tasks: their loops were busy.
  for (const { loopBusy } of manager.stats().threads) assert.ok(loopBusy > 0 && loopBusy <= 1, `${loopBusy}`);
});

const wrong = (options: unknown): never => options as never;
const refused = (text: string) => (error: Error & { code?: string }) => {
  assert.equal(error.code, "REDTHREAD_CONFIG_INVALID");
  assert.ok(error.message.includes(text), error.message);
  return true;
};

test("an unknown option of a call is an error that names it, because JavaScript would ignore it", async (t) => {
  const manager = managed(t);
  const hint = 'there is no option "timeoutMS" (did you mean "timeoutMs"?)';
  await assert.rejects(manager.run("echo", 1, wrong({ timeoutMS: 3 })), refused(hint));
  await assert.rejects(manager.map("echo", [1], wrong({ timeoutMS: 3 })).next(), refused(hint));
  await assert.rejects(manager.map("echo", [1], wrong({ transferList: [] })).next(), refused('"transferList"'));
  await assert.rejects(manager.run("echo", 1, wrong({ cancel: "coop" })), refused("cancel must be"));
  await assert.rejects(manager.run("echo", 1, wrong(null)), refused("must be an object"));
  await assert.rejects(
    manager.subscribe("c", () => {}, wrong({ onGapp: () => {} })),
    refused('(did you mean "onGap"?)'),
  );
  assert.equal(await manager.run("echo", 1, { timeoutMs: undefined, signal: undefined }), 1);
});
