import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/leasing-tasks.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

type Fields = Record<string, unknown>;

interface Leasing {
  readonly manager: ConnectionManager<typeof Tasks>;
  readonly warnings: Fields[];
  readonly notes: Fields[];
}

async function leasing(t: TestContext, dedicated: ManagerOptions["dedicated"]): Promise<Leasing> {
  const warnings: Fields[] = [];
  const notes: Fields[] = [];
  const collect =
    (wanted: string, into: Fields[]) =>
    (message: string, fields: object = {}): void => {
      if (message === wanted) into.push({ ...fields });
    };
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("leasing-tasks"),
    threads: { count: 1 },
    dedicated,
    logger: {
      ...silent,
      warn: collect("a lease has not come back", warnings),
      info: collect("a lease came back after all", notes),
    },
  });
  await manager.ready();
  return { manager, warnings, notes };
}

const closed = ({ manager }: Leasing) => manager.stats().threads[0]!.dedicated.closed;
const NONE = { idle: 0, lifetime: 0, dirty: 0, dead: 0, failed: 0, shutdown: 0 };

test("a lease that does not come back is logged once, with the stack of its acquire, and again when it comes back", async (t) => {
  const { manager, warnings, notes } = await leasing(t, { max: 2, leakWarnMs: 500 });
  const { threadId } = manager.stats().threads[0]!;
  await manager.run("useTwice"); // these come back in time: their warnings would come first
  await manager.run("forgetIt");
  await eventually(() => warnings.length > 0);
  const [warning] = warnings;
  assert.match(String(warning!["stack"]), /forgetIt.*leasing-tasks/);
  const { name, out, idle, waiting, max } = warning!;
  assert.deepEqual(
    { name, threadId: warning!["threadId"], out, idle, waiting, max },
    { name: `dedicated client of thread ${threadId}`, threadId, out: 1, idle: 1, waiting: 0, max: 2 },
  );
  // By the time of its warning, a second warning for the first lease would have come.
  const second = manager.run("holdWhile", { holding: "holding", until: "enough" });
  await eventually(() => warnings.length > 1);
  assert.match(String(warnings[1]!["stack"]), /holdWhile.*leasing-tasks/);
  assert.deepEqual(notes, []);
  await manager.run("giveBack");
  await eventually(() => notes.length === 1);
  assert.ok(Number(notes[0]!["heldMs"]) >= 500);
  await server.admin.set("enough", 1);
  await second;
  await eventually(() => notes.length === 2);
  assert.equal(warnings.length, 2);
});

test("a lease that comes back in time is not logged, nor is any lease without leakWarnMs", async (t) => {
  const watched = await leasing(t, { leakWarnMs: 60_000 });
  const unwatched = await leasing(t, {});
  for (const { manager, warnings, notes } of [watched, unwatched]) {
    await manager.run("useTwice");
    await manager.run("forgetIt");
    await manager.run("giveBack");
    await manager.shutdown();
    assert.deepEqual([warnings, notes], [[], []]);
  }
});

test("the dedicated clients of a thread are counted by the reason for which they were closed", async (t) => {
  const one = await leasing(t, { max: 2 });
  assert.deepEqual(closed(one), NONE);
  await one.manager.run("subscribe");
  await eventually(() => closed(one).dirty === 1);
  await one.manager.run("useTwice");
  assert.deepEqual(closed(one), { ...NONE, dirty: 1 });
  await one.manager.run("disconnect");
  assert.deepEqual(closed(one), { ...NONE, dirty: 1, shutdown: 2 });
});

test("idle clients and clients past their lifetime are counted apart", async (t) => {
  const resting = await leasing(t, { idleTimeoutMs: 50 });
  await resting.manager.run("useTwice");
  await eventually(() => closed(resting).idle === 2);
  assert.deepEqual(closed(resting), { ...NONE, idle: 2 });
  await resting.manager.shutdown();
  const aging = await leasing(t, { maxLifetimeMs: 50 });
  await aging.manager.run("useTwice");
  await eventually(() => closed(aging).lifetime === 2);
  assert.deepEqual(closed(aging), { ...NONE, lifetime: 2 });
  await aging.manager.shutdown();
});

test("a connection lost while it is leased is counted as dead, a connect that fails as failed", async (t) => {
  const own = await startRedis();
  const manager = manage<typeof Tasks>(t, own, {
    tasks: fixture("leasing-tasks"),
    threads: { count: 1 },
    redis: { whenDown: "fail" },
    retry: { baseDelayMs: 5, maxDelayMs: 20 },
    dedicated: { acquireTimeoutMs: 120_000 },
  });
  t.after(() => own.stop());
  await manager.ready();
  const counts = () => manager.stats().threads[0]!.dedicated.closed;
  const holding = assert.rejects(manager.run("holdWhile", { holding: "holding", until: "never" }));
  await eventually(async () => (await own.admin.get("holding")) === "1");
  await own.kill();
  await holding;
  await eventually(() => counts().dead === 1);
  const waiting = manager.run("useTwice");
  // There is one probe at a time, about two a second, and any of three clients may be the next to make it.
  await eventually(() => counts().failed > 0, 60_000);
  await own.start();
  await waiting;
});
