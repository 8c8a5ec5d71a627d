import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import type { LogFields } from "../../src/core/log.js";
import { blockLater } from "../support/block.js";
import { ABRUPT, counted, ending, running, settled, shutsDownInTime, UNHURRIED } from "../support/ending.js";
import { eventually } from "../support/gate.js";
import { untilEachHasRun } from "../support/one-in-each.js";
import { startProxy } from "../support/proxy.js";
import { fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// What threads and their users can do to a shutdown. For Redis and the network see shutdown.test.ts.

let server: RedisServer;
before(async () => {
  server = await startRedis({ loglevel: "verbose" });
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

for (const how of ["exit", "crash"] as const) {
  test(`half of the threads ${how} while the others finish: each task says what became of it`, async (t) => {
    const manager = ending(t, server, { threads: { count: 4 } });
    await manager.ready();
    // The tasks of a thread that dies are lost, whichever they are, and no others.
    const working = settled([1, 2, 3, 4].map(() => manager.run("work", "go")));
    await counted(server, 4);
    const dying = settled([1, 2].map(() => manager.run("dieOn", { key: "die", how })));
    await counted(server, 6);
    const done = shutsDownInTime(manager, { drainMs: 10_000 });
    await server.admin.set("die", 1);
    const { codes: deaths } = await dying;
    await server.admin.set("go", 1);
    const { values, codes } = await working;
    assert.deepEqual(
      [...deaths, ...codes],
      Array.from({ length: 6 - values.length }, () => "TASK_ABORTED"),
    );
    assert.deepEqual((await done).tasks, { finished: values.length, abandoned: 6 - values.length });
  });
}

test("when half of the threads died right before the shutdown, their replacements are closed with the rest", async (t) => {
  const manager = ending(t, server, { threads: { count: 4 } });
  await manager.ready();
  const dying = settled([1, 2].map(() => manager.run("dieOn", { key: "die", how: "exit" as const })));
  await counted(server, 2);
  await server.admin.set("die", 1);
  await dying;
  await shutsDownInTime(manager);
});

test("when half of the threads spin, their tasks are aborted, and the others' finish", async (t) => {
  const manager = ending(t, server, { threads: { count: 4 } });
  await manager.ready();
  const working = settled([1, 2, 3, 4].map(() => manager.run("work", "go")));
  await counted(server, 4);
  const spinning = settled([1, 2].map(() => manager.run("spin")));
  await counted(server, 6);
  const done = shutsDownInTime(manager, { drainMs: 1_000 });
  await server.admin.set("go", 1);
  const { values, codes } = await working;
  const all = [...codes, ...(await spinning).codes];
  assert.deepEqual(
    all,
    Array.from({ length: 6 - values.length }, () => "TASK_ABORTED"),
  );
  const { threads } = await done;
  const forced = threads.filter(({ outcome }) => outcome === "forced").length;
  assert.ok(forced === 1 || forced === 2, `${forced} threads were forced`);
});

test("the shutdown does not wait for a thread in a synchronous call that nothing can interrupt", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  const outcomes = settled([manager.run("sleepOn", 4)]);
  await counted(server, 1);
  await shutsDownInTime(manager);
  assert.deepEqual((await outcomes).codes, ["TASK_ABORTED"]);
});

test("threads that use up closeMs leave the main thread's clients time for their answers and QUIT", async (t) => {
  await using proxy = await startProxy(server.port);
  const manager = ending(t, server, { redis: { port: proxy.port } });
  await manager.ready();
  await manager.subscribe("news", () => {});
  const outcomes = settled([1, 2].map(() => manager.run("spin")));
  await counted(server, 2);
  const logged = server.log().length;
  proxy.latencyMs = 20;
  const writeOn = (): Promise<never> =>
    manager.use(async (redis) => {
      for (;;) await redis.incr("written");
    });
  const writers = settled(Array.from({ length: 8 }, writeOn));
  await shutsDownInTime(manager);
  await outcomes;
  assert.deepEqual(new Set((await writers).codes), new Set(["NOT_SENT"]), "every command that was sent was answered");
  await server.waitForClients((clients) => clients.length === 0);
  const abrupt = server
    .log()
    .slice(logged)
    .split("\n")
    .filter((line) => ABRUPT.test(line));
  assert.deepEqual(
    abrupt.filter((line) => !line.includes(":thread")),
    [],
  );
});

for (const { phase, blockAt } of [
  { phase: "drain", blockAt: 400 },
  { phase: "close", blockAt: 1_000 },
]) {
  test(`a main thread that is blocked for 800 ms over the end of the ${phase} costs that time once`, async (t) => {
    const limits = { drainMs: 600, closeMs: 600 };
    const manager = ending(t, server, { threads: { count: 1 } });
    await manager.ready();
    const outcomes = settled([manager.run("spin")]);
    await counted(server, 1);
    const startedAt = performance.now();
    const done = manager.shutdown(limits);
    setTimeout(() => void blockLater(800), blockAt);
    await done;
    const ms = performance.now() - startedAt;
    // The phase ended 600 ms late. Reading the messages that came meanwhile takes a few turns, not 600 ms more.
    assert.ok(ms <= 600 + limits.drainMs + limits.closeMs + 500, `${Math.round(ms)} ms`);
    await outcomes;
  });
}

test("threads that are being ended when the shutdown begins are not replaced", async (t) => {
  const manager = ending(t, server, { shutdown: { cancelGraceMs: 1 } });
  await manager.ready();
  const ids = new Set(manager.stats().threads.map(({ threadId }) => threadId));
  const heavy = { exclusive: true, timeoutMs: 1_000 };
  const outcomes = settled([1, 2].map(() => manager.run("spinHeavily", undefined, heavy)));
  assert.ok((await outcomes).codes.every((code) => code === "TASK_TIMEOUT"));
  const isEnding = ({ state, threadId }: { state: string; threadId: number }): boolean =>
    state === "dead" || !ids.has(threadId);
  await eventually(() => manager.stats().threads.some(isEnding));
  await shutsDownInTime(manager);
});

test("a lease that is not given back is closed under its holder", async (t) => {
  const manager = ending(t, server);
  await settled([1, 2, 3].map(() => manager.run("keepLease")));
  const { threads } = await shutsDownInTime(manager, UNHURRIED);
  // At once, and not only after the thread was ended because of it.
  assert.deepEqual(await server.clients(), []);
  assert.ok(threads.every(({ outcome }) => outcome === "graceful"));
});

test("threads that wait for a connection of the budget are rejected", async (t) => {
  const manager = ending(t, server, { connections: { max: 4 } });
  await manager.ready();
  // Also while only one thread has its client, the one permit that is left is the last, which is never leased.
  await manager.subscribe("news", () => {});
  const outcomes = settled([1, 2, 3, 4].map(() => manager.run("wantLease")));
  await counted(server, 4);
  await eventually(() => manager.stats().threads.some(({ dedicated }) => dedicated.waiting > 0));
  await shutsDownInTime(manager);
  assert.deepEqual((await outcomes).values, []);
});

test("a subscriber with messages on their way is closed after the threads, and onGap is not called", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  const heard: string[] = [];
  let gaps = 0;
  await manager.subscribe("news", (message) => void heard.push(message), { onGap: () => void gaps++ });
  const outcomes = settled([manager.run("work", "go")]);
  await counted(server, 1);
  const done = shutsDownInTime(manager, { drainMs: 10_000 });
  await server.admin.publish("news", "while it drains");
  await eventually(() => heard.length === 1);
  await server.admin.set("go", 1);
  await outcomes;
  await done;
  assert.equal(gaps, 0);
});

test("every line that was logged before the close is written", async (t) => {
  const lines: unknown[] = [];
  const info = (message: string, fields: LogFields = {}): void => {
    if (message === "said") lines.push(fields["i"]);
  };
  const manager = ending(t, server, { logger: { ...silent, info } });
  const outcomes = settled([1, 2, 3, 4].map(() => manager.run("talk", 2_000)));
  await shutsDownInTime(manager, { drainMs: 10_000 });
  assert.equal((await outcomes).values.length, 4);
  assert.equal(lines.length, 4 * 2_000);
});

test("the last line of a teardown is written, although its thread is busy right after", async (t) => {
  const said: string[] = [];
  const manager = ending(t, server, {
    threads: { count: 1 },
    logger: { ...silent, info: (message) => said.push(message) },
  });
  await manager.run("tearDown", "talking");
  await shutsDownInTime(manager, { closeMs: 2_000 });
  assert.equal(said.filter((message) => message === "last words").length, 1);
});

test("the lost lines of a thread that had to be ended are counted as dropped", async (t) => {
  const dropped: unknown[] = [];
  const warn = (message: string, fields: LogFields = {}): void => {
    if (message === "log records were dropped") dropped.push(fields["dropped"]);
  };
  const manager = ending(t, server, { threads: { count: 1 }, logger: { ...silent, warn } });
  await manager.ready();
  const outcomes = settled([manager.run("talkAndSpin", 100)]);
  await counted(server, 1);
  await shutsDownInTime(manager);
  await outcomes;
  assert.deepEqual(dropped, [100]);
});

test("a shutdown while the threads load and are set up does not wait for them", async (t) => {
  const manager = manage<{ echo(input: number): number }>(t, server, { tasks: fixture("slow-setup") });
  const outcomes = settled([manager.run("echo", 1), manager.ready()]);
  await counted(server, 2, "setting up");
  const { durationMs } = await manager.shutdown({ drainMs: 300, closeMs: 600 });
  assert.ok(durationMs <= 1_400, `${durationMs} ms`);
  assert.deepEqual((await outcomes).codes, ["TASK_ABORTED", "SHUTTING_DOWN"]);
});

test("a shutdown while Redis cannot be reached and the threads' setup waits for it ends in its time", async (t) => {
  const own = await startRedis();
  await own.kill();
  const manager = manage<{ echo(input: number): number }>(t, own, { tasks: fixture("slow-setup") });
  t.after(() => own.stop());
  const outcomes = settled([manager.run("echo", 1), manager.ready()]);
  await eventually(() => manager.stats().threads.every(({ threadId }) => threadId > 0), 15_000);
  const { durationMs } = await manager.shutdown({ drainMs: 300, closeMs: 600 });
  assert.ok(durationMs <= 1_400, `${durationMs} ms`);
  assert.deepEqual((await outcomes).values, []);
  await own.start();
});

test("a worn thread that spins while it is recycled costs only its own tasks", async (t) => {
  const manager = ending(t, server, { threads: { count: 1, maxTasks: 1 } });
  await manager.ready();
  const spinning = settled([manager.run("spin")]);
  await counted(server, 1);
  // The thread reads nothing more: its results before that make it worn.
  const other = settled([manager.run("echo", 1)]);
  await shutsDownInTime(manager);
  assert.deepEqual([(await spinning).codes, (await other).codes], [["TASK_ABORTED"], ["TASK_ABORTED"]]);
});

for (const how of ["never", "in failure"] as const) {
  test(`a teardown that ends ${how} costs its thread neither its QUIT nor the shutdown its time`, async (t) => {
    const warnings: LogFields[] = [];
    const warn = (message: string, fields: LogFields = {}): void => {
      if (message.includes("teardown failed")) warnings.push(fields);
    };
    const manager = ending(t, server, { threads: { count: 2 }, logger: { ...silent, warn } });
    await manager.ready();
    await untilEachHasRun(manager, () => manager.run("tearDown", how));
    const logged = server.log().length;
    const { threads } = await shutsDownInTime(manager, UNHURRIED);
    assert.ok(threads.every(({ outcome }) => outcome === "graceful"));
    assert.equal(warnings.length, 2);
    await server.waitForClients((clients) => clients.length === 0);
    assert.doesNotMatch(server.log().slice(logged), ABRUPT);
  });
}

test("running tasks get connections while the manager drains, and no new task is taken", async (t) => {
  const manager = ending(t, server, { threads: { count: 1, concurrency: 1 } });
  await manager.ready();
  const outcomes = settled([1, 2, 3].map(() => manager.run("work", "go")));
  await counted(server, 1);
  const done = shutsDownInTime(manager, { drainMs: 10_000 });
  assert.equal(running(manager), 1);
  await assert.rejects(manager.run("work", "go"), { code: "REDTHREAD_SHUTTING_DOWN" });
  await server.admin.set("go", 1);
  assert.equal((await outcomes).values.length, 3);
  assert.deepEqual((await done).tasks, { finished: 3, abandoned: 0 });
});
