import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { SharedClient } from "../../src/clients/shared-client.js";
import { noopLogger } from "../../src/core/log.js";
import type { ManagerOptions, ShutdownReport } from "../../src/index.js";
import type { Dispatcher } from "../../src/main/dispatch/dispatcher.js";
import type { Locks } from "../../src/main/locks.js";
import { shutDown } from "../../src/main/shutdown.js";
import type { Threads } from "../../src/main/threads/threads.js";
import type * as ClosingTasks from "../fixtures/closing-tasks.js";
import type { ServiceArgument } from "../fixtures/service.js";
import { ABRUPT } from "../support/ending.js";
import { configFor } from "../support/fast-config.js";
import { eventually, gate } from "../support/gate.js";
import { leakCheck } from "../support/leak-check.js";
import { code, fixture, manage } from "../support/manage.js";
import { type Exit, Program } from "../support/program.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis({ loglevel: "verbose" });
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

interface Service extends Partial<Pick<ServiceArgument, "tasks" | "awaitReady">> {
  run?: ServiceArgument["run"];
  threads?: ManagerOptions["threads"];
  shutdown?: ManagerOptions["shutdown"];
}

async function startService(t: TestContext, { run = [], threads, shutdown, ...rest }: Service): Promise<Program> {
  const argument: ServiceArgument = {
    tasks: "./closing-tasks.js",
    awaitReady: true,
    ...rest,
    run,
    options: {
      redis: { port: server.port },
      threads: { count: 4, concurrency: 16, ...threads },
      shutdown: { handleSignals: true, ...shutdown },
    },
  };
  const program = new Program(t, "service", argument); // killed before the check if it still runs
  leakCheck(t, server);
  await program.hears("ready");
  return program;
}

const fakeClient = (close: (ms: number) => Promise<void>): SharedClient => ({ close }) as unknown as SharedClient;

test("the main thread's clients are closed all at once: none waits for the server of another", async () => {
  const isLastAsked = gate();
  const asked: number[] = [];
  const tally = { done: 0, failed: 0, abandoned: 0 };
  await shutDown("over", configFor(server).shutdown, {
    dispatcher: { tally, drained: async () => {} } as unknown as Dispatcher,
    threads: Object.assign([], {
      close: async () => {},
      destroy: async () => {},
      exited: async () => {},
    }) as unknown as Threads,
    clients: [
      fakeClient(async (ms) => {
        asked.push(ms);
        await isLastAsked.promise;
      }),
      fakeClient(async (ms) => {
        asked.push(ms);
        isLastAsked.open();
      }),
    ],
    locks: { release: async () => {}, close: async () => {} } as unknown as Locks,
    logger: noopLogger,
    closeLogger: async () => {},
    refuse: () => {},
  });
  assert.equal(asked.length, 2);
  assert.equal(asked[0], asked[1], "each client has the whole time");
});

const started = (key: string, count: number): Promise<boolean> =>
  eventually(async () => Number(await server.admin.get(key)) === count, 15_000, `${count} tasks in ${key}`);

const reportOf = (program: Program): ShutdownReport => program.all("report")[0]!["report"] as ShutdownReport;

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`all 50 tasks running at ${signal} finish, and the server sees every connection say goodbye`, async (t) => {
    const logged = server.log().length;
    const service = await startService(t, { run: [["work", { started: "started", until: "go" }, 50]] });
    await started("started", 50);
    service.signal(signal);
    await service.hears("shutting down"); // it is draining
    await server.admin.set("go", 1);
    const { code: exitCode } = await service.exit;
    assert.equal(exitCode, 0, service.transcript);
    assert.equal(service.all("value").length, 50);
    assert.equal(await server.admin.get("worked"), "50");
    const { tasks, threads, reason } = reportOf(service);
    assert.deepEqual({ tasks, reason }, { tasks: { finished: 50, abandoned: 0 }, reason: signal });
    assert.ok(threads.length === 4 && threads.every(({ outcome }) => outcome === "graceful"));
    assert.deepEqual(await server.clients(), []);
    assert.doesNotMatch(server.log().slice(logged), ABRUPT);
  });
}

/** On a busy machine a forced thread may exit after the shutdown: then the process ends by the signal. */
function hasFailed(exit: Exit): boolean {
  return exit.code === 1 || exit.signal === "SIGTERM";
}

test("an endless loop costs only the tasks of its thread, and the shutdown still ends in time", async (t) => {
  const limits = { drainMs: 1_000, closeMs: 1_000 };
  const work = ["work", { started: "started", until: "go" }, 8] as const;
  const service = await startService(t, {
    run: [work, ["spin", "spinning", 1]],
    threads: { count: 2 },
    shutdown: limits,
  });
  await started("started", 8);
  await started("spinning", 1);
  service.signal("SIGTERM");
  await service.hears("shutting down");
  await server.admin.set("go", 1);
  const exit = await service.exit;
  const { ms } = exit;
  const { durationMs, tasks, threads } = reportOf(service);
  assert.ok(durationMs <= limits.drainMs + limits.closeMs + 500, `${durationMs} ms`);
  assert.ok(ms - durationMs < 2_000, `the process outlived its report by ${ms - durationMs} ms`);
  assert.ok(hasFailed(exit), service.transcript);
  // The tasks in the thread of the loop are lost, whichever they are, and all others finish.
  const values = service.all("value").map(({ value }) => value);
  assert.equal(new Set(values).size, 1);
  const errors = service.all("error").map(({ task, error }) => `${String(task)} ${String(error)}`);
  assert.deepEqual(errors.toSorted(), [
    "spin REDTHREAD_TASK_ABORTED",
    ...Array.from({ length: 8 - values.length }, () => "work REDTHREAD_TASK_ABORTED"),
  ]);
  assert.deepEqual(tasks, { finished: values.length, abandoned: 9 - values.length });
  assert.deepEqual(threads.map(({ outcome }) => outcome).toSorted(), ["forced", "graceful"]);
  t.diagnostic(`report ${durationMs} ms, from the signal to the end of the process ${Math.round(ms)} ms`);
});

test("a task that obeys the shutdown's abort counts as abandoned, and the exit code says so", async (t) => {
  const service = await startService(t, {
    run: [["obedient", { started: "started" }, 2]],
    shutdown: { drainMs: 100 },
  });
  await started("started", 2);
  service.signal("SIGTERM");
  assert.equal((await service.exit).code, 1);
  assert.deepEqual(
    service.all("error").map(({ error }) => error),
    ["REDTHREAD_TASK_ABORTED", "REDTHREAD_TASK_ABORTED"],
  );
  const { tasks, threads } = reportOf(service);
  assert.deepEqual(tasks, { finished: 0, abandoned: 2 });
  assert.ok(threads.every(({ outcome }) => outcome === "graceful"));
  assert.equal(await server.admin.get("obeyed"), "2", "each task had Redis until its end");
});

test("a task in a BLPOP without an answer does not hold the shutdown", async (t) => {
  const limits = { drainMs: 100, closeMs: 1_000 };
  const service = await startService(t, { run: [["block", "started", 1]], shutdown: limits });
  await started("started", 1);
  service.signal("SIGTERM");
  assert.ok(hasFailed(await service.exit), service.transcript);
  assert.equal(service.all("error")[0]!["error"], "REDTHREAD_TASK_ABORTED");
  const { durationMs } = reportOf(service);
  assert.ok(durationMs <= limits.drainMs + limits.closeMs + 500, `${durationMs} ms`);
});

test("a shutdown while the threads are set up leaves no connection and no thread", async (t) => {
  const service = await startService(t, { tasks: "./slow-setup.js", awaitReady: false, threads: { count: 2 } });
  await started("setting up", 2);
  service.signal("SIGTERM");
  assert.equal((await service.exit).code, 0, service.transcript);
  assert.deepEqual(reportOf(service).tasks, { finished: 0, abandoned: 0 });
});

test("a task that was taken before the threads were up still runs during the shutdown", async (t) => {
  const service = await startService(t, {
    tasks: "./slow-setup.js",
    run: [["echo", "hello", 3]],
    awaitReady: false,
    threads: { count: 2 },
  });
  await started("setting up", 2);
  service.signal("SIGTERM");
  await service.hears("shutting down");
  await server.admin.set("set up", 1);
  assert.equal((await service.exit).code, 0, service.transcript);
  assert.deepEqual(
    service.all("value").map(({ value }) => value),
    ["hello", "hello", "hello"],
  );
});

test("a manager that is shut down in the turn of its construction leaves nothing open", async (t) => {
  const manager = closing(t);
  const { threads, tasks } = await manager.shutdown();
  assert.equal(threads.length, 2);
  assert.deepEqual(tasks, { finished: 0, abandoned: 0 });
});

test("after its `await using` block a manager lets the process end by itself, without output", async (t) => {
  leakCheck(t, server);
  const logged = server.log().length;
  const program = new Program(t, "disposing", { port: server.port });
  const { code: exitCode, stderr } = await program.exit;
  assert.deepEqual({ exitCode, stderr }, { exitCode: 0, stderr: "" });
  assert.deepEqual(program.said, [{ value: "thread" }]);
  assert.doesNotMatch(server.log().slice(logged), ABRUPT);
});

function closing(t: TestContext, options: Partial<ManagerOptions> = {}) {
  return manage<typeof ClosingTasks>(t, server, { tasks: fixture("closing-tasks"), ...options });
}

test("a task that starts while the manager drains still has Redis", async (t) => {
  const manager = closing(t, { threads: { count: 1, concurrency: 1 } });
  const tasks = Array.from({ length: 3 }, () => manager.run("work", { started: "started", until: "go" }));
  await started("started", 1);
  const done = manager.shutdown();
  await assert.rejects(manager.run("work", { started: "started", until: "go" }), code("SHUTTING_DOWN"));
  await server.admin.set("go", 1);
  await Promise.all(tasks);
  assert.deepEqual((await done).tasks, { finished: 3, abandoned: 0 });
  assert.equal(await server.admin.get("worked"), "3");
});

test("an undefined option of the shutdown leaves the manager's option in force", async (t) => {
  const manager = closing(t);
  const task = manager.run("work", { started: "started", until: "go" });
  await started("started", 1);
  const done = manager.shutdown({ reason: undefined, lameDuckMs: undefined, drainMs: undefined, closeMs: undefined });
  await assert.rejects(manager.run("work", { started: "started", until: "go" }), code("SHUTTING_DOWN"));
  setTimeout(() => void server.admin.set("go", 1), 100);
  await task;
  const { reason, tasks } = await done;
  assert.deepEqual([reason, tasks], ["shutdown", { finished: 1, abandoned: 0 }]);
});

test("a lame duck takes tasks until its time is over, and none after it", async (t) => {
  const manager = closing(t);
  await manager.ready();
  const done = manager.shutdown({ lameDuckMs: 300 });
  await server.admin.set("go", 1);
  assert.deepEqual(manager.health(), { live: true, ready: false, reasons: ["shutting down"] });
  let taken = 0;
  const takeMore = async (): Promise<never> => {
    for (;;) await manager.run("work", { started: "started", until: "go" }).then(() => taken++);
  };
  await assert.rejects(takeMore(), code("SHUTTING_DOWN"));
  assert.ok(taken > 0);
  assert.equal((await done).tasks.abandoned, 0);
});

test("tasks are taken until the promise of `until` has settled", async (t) => {
  const work = ["work", { started: "started", until: "go" }] as const;
  await server.admin.set("go", 1);
  for (const end of ["resolves", "rejects"]) {
    const manager = closing(t);
    await manager.ready();
    const requests = gate();
    const until = requests.promise.then(() => assert.equal(end, "resolves"));
    const done = manager.shutdown({ until, drainMs: 60_000 });
    assert.equal(manager.health().ready, false);
    await manager.run(...work);
    requests.open();
    const takeMore = async (): Promise<never> => {
      for (;;) await manager.run(...work);
    };
    await assert.rejects(takeMore(), code("SHUTTING_DOWN"), end);
    assert.equal((await done).tasks.abandoned, 0, end);
  }
});

test("a promise of `until` that never settles uses up drainMs, and not more", async (t) => {
  const manager = closing(t);
  await manager.ready();
  const done = manager.shutdown({ until: new Promise(() => {}), drainMs: 300 });
  await assert.rejects(manager.run("work", { started: "started", until: "never" }), code("TASK_ABORTED"));
  await assert.rejects(manager.run("work", { started: "started", until: "go" }), code("SHUTTING_DOWN"));
  assert.equal((await done).tasks.abandoned, 1);
});

test("teardown runs once per thread, with Redis still there, and its log lines arrive", async (t) => {
  const logged: unknown[] = [];
  const info = (message: string, fields: object = {}): void => {
    if (message === "last words") logged.push((fields as { from?: number }).from);
  };
  const manager = closing(t, { logger: { debug() {}, info, warn() {}, error() {} } });
  await manager.ready();
  const calls = Array.from({ length: 4 }, () => manager.run("keepLogger"));
  const threadIds = [...new Set(await Promise.all(calls))];
  const [report] = await Promise.all([manager.shutdown(), manager.shutdown()]);
  assert.equal(await manager.shutdown(), report);
  const expected = Object.fromEntries(report.threads.map(({ threadId }) => [threadId, "1"]));
  assert.deepEqual({ ...(await server.admin.hgetall("teardowns")) }, expected);
  assert.deepEqual(new Set(logged), new Set(threadIds));
});

test("a logger whose close never settles does not hold the shutdown", async (t) => {
  const muted = new Program(t, "muted", { port: server.port });
  leakCheck(t, server);
  assert.equal((await muted.exit).code, 0);
  const [{ failed, ms } = {}] = muted.all("ms");
  assert.equal(failed, true, "it says that the log may be incomplete");
  assert.ok((ms as number) <= 300 + 600 + 500, `${String(ms)} ms`);
});
