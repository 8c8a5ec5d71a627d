import assert from "node:assert/strict";
import { channel, tracingChannel } from "node:diagnostics_channel";
import { after, before, test, type TestContext } from "node:test";
import { MessageChannel, receiveMessageOnPort } from "node:worker_threads";
import { taskChannel, Trace } from "../../../src/core/channels.js";
import { Ledger } from "../../../src/link/ledger.js";
import { TaskRun } from "../../../src/main/dispatch/task-run.js";
import { ThreadWork } from "../../../src/main/dispatch/thread-work.js";
import { Thread } from "../../../src/main/threads/thread.js";
import type { ConnectionManager, LockMessage, ManagerOptions, TaskMessage, ThreadMessage } from "../../../src/index.js";
import type * as Tasks from "../../fixtures/observed-tasks.js";
import type { Heard } from "../../fixtures/observed-tasks.js";
import { eventually } from "../../support/gate.js";
import { code, fixture, manage } from "../../support/manage.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

const LIMIT = { timeout: 30_000 };
const SECRET = "s3cret-value";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function managed(t: TestContext, overrides: Partial<ManagerOptions> = {}): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, { tasks: fixture("observed-tasks"), threads: { count: 1 }, ...overrides });
}

/** The messages that a plain channel publishes while the test runs. */
function hear<Message>(t: TestContext, name: string): Message[] {
  const messages: Message[] = [];
  const listener = (message: unknown): void => void messages.push(message as Message);
  channel(name).subscribe(listener);
  t.after(() => {
    channel(name).unsubscribe(listener);
  });
  return messages;
}

/** Copies of the messages, each as it was at its event. */
function hearTasks(
  t: TestContext,
  onStart?: (message: TaskMessage) => void,
): { event: string; message: TaskMessage }[] {
  const events: { event: string; message: TaskMessage }[] = [];
  const note =
    (event: string) =>
    (message: TaskMessage): void =>
      void events.push({ event, message: { ...message } });
  const listeners = {
    start: (message: TaskMessage) => {
      onStart?.(message);
      note("start")(message);
    },
    end: note("end"),
    error: note("error"),
    asyncStart: note("asyncStart"),
    asyncEnd: note("asyncEnd"),
  };
  const tasks = tracingChannel<unknown, TaskMessage>("redthread:task");
  tasks.subscribe(listeners);
  t.after(() => {
    tasks.unsubscribe(listeners);
  });
  return events;
}

const job = (id: number): TaskRun => new TaskRun(id, "task", id, {}, { resolve: () => {}, reject: () => {} });

const eventsOf = (heard: readonly Heard[], name: string): Heard[] => heard.filter((one) => one.channel === name);

test(
  "redthread:task tells of each task from run() to its outcome, with its thread, times and code",
  LIMIT,
  async (t) => {
    const manager = managed(t);
    const events = hearTasks(t);
    await manager.run("setSecret", SECRET);
    await assert.rejects(manager.run("fail", SECRET), /s3cret/);
    const { threadId } = manager.stats().threads[0]!;
    const names = events.map(({ event, message }) => `${message.task} ${event}`);
    assert.deepEqual(names, [
      ...["start", "end", "asyncStart", "asyncEnd"].map((event) => `setSecret ${event}`),
      ...["start", "end", "error", "asyncStart", "asyncEnd"].map((event) => `fail ${event}`),
    ]);
    const [first, last] = [events[0]!.message, events.at(-1)!.message];
    assert.deepEqual(first, { manager: manager.id, taskId: first.taskId, task: "setSecret" });
    const { durationMs, waitMs, ...rest } = last;
    assert.equal(first.taskId.replace(/\d+$/, "2"), rest.taskId);
    assert.deepEqual(rest, { manager: manager.id, taskId: rest.taskId, task: "fail", threadId, code: "E_OWN" });
    assert.ok(waitMs! >= 0 && durationMs! >= waitMs!);
    assert.ok(!JSON.stringify(events).includes(SECRET));
  },
);

test("redthread:task tells of a task that its caller gave up, and of the tasks of map()", LIMIT, async (t) => {
  const manager = managed(t);
  const events = hearTasks(t);
  await assert.rejects(manager.run("leaseInVain", undefined, { timeoutMs: 0 }), code("TASK_TIMEOUT"));
  for await (const nothing of manager.map("lease", ["a", "b", "c"])) assert.equal(nothing, undefined);
  const messages = events.filter(({ event }) => event === "asyncEnd").map(({ message }) => message);
  assert.deepEqual(
    messages.map(({ task, code: failed }) => [task, failed]),
    [
      ["leaseInVain", "REDTHREAD_TASK_TIMEOUT"],
      ["lease", undefined],
      ["lease", undefined],
      ["lease", undefined],
    ],
  );
  assert.deepEqual(new Set(messages.map(({ index }) => index)), new Set([undefined, 0, 1, 2]));
});

test(
  "the trace that a subscriber of redthread:task sets arrives with that task in its thread, and with no other",
  LIMIT,
  async (t) => {
    const manager = managed(t);
    const trace = { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate: "a=b" };
    hearTasks(t, (message) => {
      if (message.task === "setSecret") message.trace = trace;
    });
    await manager.run("listen");
    await Promise.all([manager.run("setSecret", "1"), manager.run("lease", "2")]);
    const heard = eventsOf(await manager.run("heardSoFar"), "redthread:execution");
    const traces = heard
      .filter(({ event }) => event === "start")
      .map(({ message }) => [message["task"], message["trace"]]);
    assert.deepEqual(traces, [
      ["setSecret", trace],
      ["lease", undefined],
      ["heardSoFar", undefined],
    ]);
  },
);

test(
  "a thread's channels tell of executions, acquires, leases and connections, and never of a key or value",
  LIMIT,
  async (t) => {
    const manager = managed(t, { dedicated: { max: 1, acquireTimeoutMs: 250 } });
    await manager.run("listen");
    await manager.run("setSecret", SECRET);
    await manager.run("lease", SECRET);
    assert.equal(await manager.run("leaseInVain"), "REDTHREAD_ACQUIRE_TIMEOUT");
    await assert.rejects(manager.run("fail", SECRET), /s3cret/);
    const heard = await manager.run("heardSoFar");
    const { threadId } = manager.stats().threads[0]!;

    const connected = eventsOf(heard, "redthread:connection").map(({ event, message }) => [event, message["role"]]);
    assert.deepEqual(connected, [
      ["connected", "thread"],
      ["connected", "dedicated"],
    ]);
    const acquires = eventsOf(heard, "redthread:acquire").filter(({ event }) => event === "asyncEnd");
    assert.deepEqual(
      acquires.map(({ message }) => [message["threadId"], message["code"]]),
      [
        [threadId, undefined],
        [threadId, undefined],
        [threadId, "REDTHREAD_ACQUIRE_TIMEOUT"],
      ],
    );
    const leases = eventsOf(heard, "redthread:lease").map(({ event }) => event);
    assert.deepEqual(leases, ["start", "end", "asyncStart", "asyncEnd", "start", "end", "asyncStart", "asyncEnd"]);
    const failed = eventsOf(heard, "redthread:execution").filter(({ event }) => event === "error");
    assert.deepEqual(
      failed.map(({ message }) => [message["task"], message["code"]]),
      [["fail", "E_OWN"]],
    );
    assert.ok(heard.every(({ message }) => ((message["durationMs"] ?? 0) as number) >= 0));
    assert.ok(!JSON.stringify(heard).includes(SECRET));
    const { totals } = manager.stats();
    assert.equal(totals.acquireTimeouts, 1);
  },
);

test("the message with a thread's tasks has a field for traces only when one of them has a trace", LIMIT, async (t) => {
  const { port1, port2 } = new MessageChannel();
  t.after(() => port1.close());
  const ledger = new Ledger(1);
  const thread = new Thread(1, ledger.row(ledger.take()));
  thread.attached({ threadId: 1, performance }, port1, () => {});
  const load = new ThreadWork(thread, 8);
  const sent = (...jobs: TaskRun[]): unknown => {
    for (const one of jobs) load.give(one, { busyMs: 0, isImmediate: false });
    load.post((_, cause) => assert.fail(String(cause)));
    return receiveMessageOnPort(port2)!.message;
  };
  assert.deepEqual(sent(job(1)), { type: "tasks", tasks: [1, "task", 1, undefined, 0, 0] });
  const [listenedTo, traced] = [job(2), job(3)];
  listenedTo.trace = new Trace(taskChannel, { manager: 1, taskId: "2", task: "task" });
  assert.deepEqual(Object.keys(sent(listenedTo) as object), ["type", "tasks"]);
  const trace = { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" };
  traced.trace = new Trace(taskChannel, { manager: 1, taskId: "3", task: "task", trace });
  assert.deepEqual((sent(job(4), traced) as { traces: unknown }).traces, { 3: trace });
});

test(
  "redthread:connection tells that a killed connection is lost and connected, in the thread that owns it",
  LIMIT,
  async (t) => {
    const manager = managed(t);
    await manager.run("setSecret", "1");
    await manager.run("listen");
    const own = (await server.clients()).find(({ name }) => name.endsWith(":thread"))!;
    await server.admin.client("KILL", "ID", own.id);
    const heard: Heard[] = [];
    await eventually(async () => {
      heard.push(...eventsOf(await manager.run("heardSoFar"), "redthread:connection"));
      return heard.length >= 2;
    });
    assert.deepEqual(
      heard.map(({ event, message }) => [event, message["name"]]),
      [
        ["lost", own.name],
        ["connected", own.name],
      ],
    );
  },
);

test("redthread:breaker tells that Redis goes away and comes back, in the thread that noticed it", LIMIT, async (t) => {
  const own = await startRedis();
  const breaker = hear<{ event: string }>(t, "redthread:breaker");
  const manager = manage<typeof Tasks>(t, own, { tasks: fixture("observed-tasks"), threads: { count: 1 } });
  t.after(() => own.stop());
  await manager.ready(); // the main thread alone is connected
  await own.kill();
  await eventually(() => breaker.length === 1);
  await own.start();
  await eventually(() => breaker.length === 2);
  assert.deepEqual(
    breaker.map(({ event }) => event),
    ["opened", "closed"],
  );
});

test(
  "redthread:thread tells of a thread's start, its death with the code, and its end at the shutdown",
  LIMIT,
  async (t) => {
    const heard = hear<ThreadMessage>(t, "redthread:thread");
    const manager = managed(t);
    await manager.ready();
    await assert.rejects(manager.run("exit"), code("THREAD_DIED"));
    await eventually(() => heard.filter(({ event }) => event === "ready").length === 2);
    assert.equal(manager.stats().died, 1);
    await manager.shutdown();
    assert.deepEqual(
      heard.map(({ event }) => event),
      ["started", "ready", "died", "started", "ready", "closed"],
    );
    assert.ok(heard.every((one) => one.manager === manager.id));
    assert.equal(typeof heard[2]!.code, "string");
  },
);

test("redthread:thread tells of a worn thread as recycled", LIMIT, async (t) => {
  const heard = hear<ThreadMessage>(t, "redthread:thread");
  const manager = managed(t, { threads: { count: 1, maxTasks: 1 } });
  await manager.run("lease", "a");
  await eventually(() => heard.some(({ event }) => event === "recycled"));
  assert.ok(heard.every(({ event }) => event !== "died"));
});

test("redthread:thread tells of a thread that cannot start as failed", LIMIT, async (t) => {
  const heard = hear<ThreadMessage>(t, "redthread:thread");
  const manager = managed(t, { tasks: fixture("throws-at-import") });
  await assert.rejects(manager.ready(), code("THREAD_START_FAILED"));
  const failed = heard.find(({ event }) => event === "failed")!;
  assert.deepEqual(failed, { event: "failed", manager: manager.id, threadId: failed.threadId, code: "TypeError" });
});

test("redthread:rotation tells of the primary client's replacement", LIMIT, async (t) => {
  const heard = hear<{ durationMs: number; ageMs: number }>(t, "redthread:rotation");
  const manager = managed(t, { primary: { ttlMs: 10, jitter: 0 } });
  await manager.getRedis();
  await eventually(async () => {
    await manager.use(async (redis) => redis.ping());
    return heard.length >= 1;
  });
  assert.ok(heard[0]!.durationMs > 0 && heard[0]!.ageMs >= 10);
});

test("counters of all threads outlive the threads that counted", LIMIT, async (t) => {
  const manager = managed(t);
  await manager.run("lease", "a");
  await assert.rejects(manager.run("exit"), code("THREAD_DIED"));
  await manager.run("lease", "b");
  const { totals, tasks, threads } = manager.stats();
  assert.equal(totals.acquires, 2);
  assert.equal(threads[0]!.acquires, 1);
  assert.deepEqual(tasks, { done: 2, failed: 0, abandoned: 1, refused: 0 });
});

test(
  "redthread:lock tells of each lock in its holder's thread, with times and the reason of a loss",
  LIMIT,
  async (t) => {
    const manager = managed(t);
    const ofMain = hear<LockMessage>(t, "redthread:lock");
    await manager.run("lock", SECRET); // nobody listens yet
    await manager.run("listen");
    await manager.run("lock", SECRET);
    await manager.run("lockInVain", SECRET);
    const heard = eventsOf(await manager.run("heardSoFar"), "redthread:lock").map(({ message }) => message);
    const { threadId } = manager.stats().threads[0]!;
    assert.deepEqual(
      heard.map((one) => [one["event"], one["threadId"], one["reason"], typeof one["waitMs"], typeof one["heldMs"]]),
      [
        ["acquired", threadId, undefined, "number", "undefined"],
        ["released", threadId, undefined, "undefined", "number"],
        ["acquired", threadId, undefined, "number", "undefined"],
        ["lost", threadId, "gone", "undefined", "number"],
      ],
    );
    assert.ok(!JSON.stringify(heard).includes(SECRET));
    assert.deepEqual(ofMain, []);
    await manager.withLock(SECRET, {}, async () => {});
    assert.deepEqual(
      ofMain.map(({ event }) => event),
      ["acquired", "released"],
    );
  },
);
