import assert from "node:assert/strict";
import { once } from "node:events";
import { after, test, type TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions, NearCounts, NearStats } from "../../src/index.js";
import { loggerOf, type LogFields, type Logger } from "../../src/core/log.js";
import { adviceOn } from "../../src/near/near-stats.js";
import type * as Tasks from "../fixtures/near-observed-tasks.js";
import { eventually } from "../support/gate.js";
import { blockKeeper, newWorkers } from "../support/keeper.js";
import { code, fixture, manage } from "../support/manage.js";
import { freePort, startRedis, type RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
const WAIT_MS = 20_000;
const SECRET = "hunter2-and-more";
const NONE: NearCounts = {
  hits: { own: 0, shared: 0 },
  misses: 0,
  unleased: 0,
  fills: 0,
  outdated: 0,
  elsewhere: 0,
  oversize: 0,
};
const server = await startRedis();
after(() => server.stop());

type Manager = ConnectionManager<typeof Tasks>;
/** A busy machine does not end the lease, so that reads are counted as they were made. */
const nearCache = { prefixes: ["model:"], maxStaleMs: 10_000 };
type Options = Omit<Partial<ManagerOptions>, "tasks">;

function managed(t: TestContext, options: Options = {}, at: RedisServer = server): Manager {
  return manage<typeof Tasks>(t, at, {
    tasks: fixture("near-observed-tasks"),
    nearCache,
    ...options,
    threads: { count: 1, ...options.threads },
  });
}

const nearOf = (manager: Manager): NearStats => manager.stats().near!;

/** A manager whose near cache is on. */
async function serving(t: TestContext, options: Options = {}): Promise<Manager> {
  const manager = managed(t, options);
  await manager.ready();
  await eventually(() => nearOf(manager).leaseMs > 0, WAIT_MS, "values may be served");
  return manager;
}

interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: LogFields | undefined;
}

function logged(): { logger: Logger; lines: Line[]; of: (text: string) => Line[] } {
  const lines: Line[] = [];
  const logger = loggerOf((level, message, fields) => {
    if (level !== "debug") lines.push({ level, message, fields });
  });
  return { logger, lines, of: (text) => lines.filter(({ message }) => message.includes(text)) };
}

test("without a near cache there are no numbers of it", LIMIT, async (t) => {
  const manager = managed(t, { nearCache: {} });
  await manager.ready();
  const { near, keeper, threads } = manager.stats();
  assert.deepEqual([near, keeper, threads[0]!.near], [null, null, null]);
  assert.deepEqual(manager.health().reasons, []);
});

test("stats() counts the reads of each thread, and adds them up", LIMIT, async (t) => {
  const manager = await serving(t);
  await server.admin.set("model:counted", "1");
  await eventually(() => nearOf(manager).invalidated > 0, WAIT_MS, "the write was told of");
  assert.deepEqual(nearOf(manager).totals, NONE);
  for (const _ of [1, 2]) assert.equal(await manager.near.get("model:counted"), "1");
  for (const _ of [1, 2, 3]) assert.equal(await manager.run("read", "model:counted"), "1");
  const { near, threads } = manager.stats();
  assert.deepEqual(near!.main, { ...NONE, hits: { own: 1, shared: 0 }, misses: 1, fills: 1 });
  assert.deepEqual(threads[0]!.near, { ...NONE, hits: { own: 2, shared: 1 } });
  assert.deepEqual(near!.totals, { ...NONE, hits: { own: 3, shared: 1 }, misses: 1, fills: 1 });
  assert.deepEqual([near!.state, near!.reason, near!.advice], ["on", null, null]);
  assert.ok(near!.usedBytes > 0 && near!.usedBytes < near!.maxBytes, `${near!.usedBytes} of ${near!.maxBytes}`);
  assert.deepEqual([near!.wraps, near!.connects], [0, 1]);
  assert.ok(near!.proofAgeMs! >= 0 && near!.leaseMs <= nearCache.maxStaleMs);
});

test("the counts of a thread that has ended stay in the totals", LIMIT, async (t) => {
  const manager = await serving(t);
  await manager.run("read", "model:of the dead");
  await assert.rejects(manager.run("exit"), code("THREAD_DIED"));
  await manager.run("read", "model:of the dead");
  const { near, threads } = manager.stats();
  assert.deepEqual(threads.at(-1)!.near, { ...NONE, hits: { own: 0, shared: 1 } });
  assert.deepEqual(near!.totals, { ...NONE, hits: { own: 0, shared: 1 }, misses: 1, fills: 1 });
});

test("stats() counts what the server told, and what is not kept", LIMIT, async (t) => {
  const manager = await serving(t, { nearCache: { ...nearCache, maxValueBytes: 64 } });
  const { flushes } = nearOf(manager);
  await server.admin.mset("model:a", "1", "model:b", "2", "other", "3");
  await eventually(() => nearOf(manager).invalidated === 2, WAIT_MS, "both keys under the prefix are told");
  await server.admin.flushall();
  await eventually(() => nearOf(manager).flushes === flushes + 1, WAIT_MS, "the flush is told");
  await server.admin.set("model:large", "x".repeat(65));
  await eventually(() => nearOf(manager).invalidated === 3, WAIT_MS, "the write is told");
  await manager.near.get("model:large");
  await manager.near.get(`model:${"x".repeat(1_024)}`);
  assert.deepEqual(nearOf(manager).totals, { ...NONE, misses: 2, oversize: 2 });
});

test("segments that are emptied to be filled again are counted", LIMIT, async (t) => {
  const manager = await serving(t, { nearCache: { ...nearCache, maxBytes: 2 ** 20, maxValueBytes: 2 ** 14 } });
  const value = "x".repeat(2 ** 14);
  await server.admin.mset(Object.fromEntries(Array.from({ length: 80 }, (_, i) => [`model:${i}`, value])));
  await eventually(() => nearOf(manager).invalidated === 80, WAIT_MS, "the writes are told");
  for (let i = 0; i < 80; i++) await manager.near.get(`model:${i}`); // more than there is room for
  const { wraps, usedBytes, maxBytes } = nearOf(manager);
  assert.ok(wraps > 0 && usedBytes <= maxBytes, `${wraps} segments, ${usedBytes} of ${maxBytes}`);
});

test("the keeper's connection counts among the open ones", LIMIT, async (t) => {
  const manager = await serving(t);
  await manager.run("read", "model:opens");
  const clients = await server.clients();
  assert.ok(clients.some(({ name }) => name.endsWith(":keeper")));
  await eventually(() => manager.stats().connections.open === clients.length, WAIT_MS, "all are counted");
});

test("while thread and keeper are blocked stats() answers: nothing may be served", LIMIT, async (t) => {
  const manager = await serving(t, { nearCache: { prefixes: ["model:"] } });
  const spinning = manager.run("spin", 3_000);
  await eventually(() => manager.stats().threads[0]!.running === 1);
  await blockKeeper(t, 3_000);
  await eventually(() => nearOf(manager).leaseMs === 0, WAIT_MS, "the lease is over");
  const { state, proofAgeMs } = nearOf(manager);
  assert.ok(state === "on" && proofAgeMs! >= 240, `${state}, ${proofAgeMs} ms`);
  await manager.near.get("model:asked");
  assert.equal(nearOf(manager).totals.unleased, 1);
  await spinning;
  await eventually(() => nearOf(manager).leaseMs > 0, WAIT_MS, "the keeper proves again");
});

/** What is missing in the rights of a user; "" nothing. */
const RIGHTS = "+get +pttl +ping +hello +info +client|setname +client|tracking +select +subscribe";
const RULES = [
  ["+client|tracking", "CLIENT TRACKING", /CLIENT TRACKING is refused/],
  ["+info", "INFO", /INFO is refused/],
] as const;

for (const [right, reason, told] of RULES) {
  test(`a user without ${right} makes the cache be off: one warning, and every read asks Redis`, LIMIT, async (t) => {
    const acl = `user default off\nuser observer on >${SECRET} ~* &* +@all\nuser reader on >${SECRET} ~* &* -@all ${RIGHTS.replace(right, "")}\n`;
    const strict = await startRedis({ acl, observer: { username: "observer", password: SECRET } });
    const { logger, of } = logged();
    const manager = managed(t, { logger, redis: { username: "reader", password: SECRET } }, strict);
    t.after(() => strict.stop());
    await manager.ready();
    await eventually(() => manager.stats().near?.state === "off", WAIT_MS, "it is off");
    assert.equal(nearOf(manager).reason, reason);
    const { ready, reasons } = manager.health();
    assert.equal(ready, true);
    assert.match(reasons.join(), new RegExp(`^the near cache is off: .*${told.source}`));
    await strict.admin.set("model:read", "1");
    for (const _ of [1, 2]) assert.equal(await manager.run("read", "model:read"), "1");
    assert.deepEqual(nearOf(manager).totals, { ...NONE, misses: 2, unleased: 2 });
    const [line, ...others] = of("near cache is off");
    assert.deepEqual([line!.level, line!.fields!["code"], others], ["warn", "NOPERM", []]);
    assert.match(String(line!.fields!["reason"]), told);
  });
}

test("with RESP2 the cache is off", LIMIT, async (t) => {
  const manager = managed(t, { redis: { ioredis: { protocol: 2 } } });
  await manager.ready();
  await eventually(() => manager.stats().near?.reason === "RESP3", WAIT_MS, "it is off");
  assert.match(manager.health().reasons.join(), /^the near cache is off: the connection does not speak RESP3/);
  await manager.near.mget(Array.from({ length: 1_000 }, (_, i) => `model:${i}`));
  const { totals, advice } = nearOf(manager);
  assert.deepEqual([totals.unleased, advice], [1_000, null], "the reason says it");
});

test("the cache is off while the server is a replica, which is told each time", LIMIT, async (t) => {
  const { logger, of } = logged();
  const manager = await serving(t, { logger });
  t.after(() => server.admin.replicaof("NO", "ONE"));
  for (const times of [1, 2]) {
    await server.admin.replicaof("127.0.0.1", String(await freePort()));
    await eventually(() => nearOf(manager).reason === "replica", WAIT_MS, "it is off");
    assert.deepEqual([nearOf(manager).state, nearOf(manager).leaseMs], ["off", 0]);
    await eventually(() => of("near cache is off").length === times, WAIT_MS, "the log says it");
    await server.admin.replicaof("NO", "ONE");
    await eventually(() => nearOf(manager).leaseMs > 0, WAIT_MS, "it is on");
    assert.deepEqual([nearOf(manager).state, nearOf(manager).reason], ["on", null]);
  }
});

test("keepers that a wrong password keeps away are one line in the log, and end with the manager", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const { logger, of } = logged();
  const strict = await startRedis({ args: ["--requirepass", SECRET], observer: { password: SECRET } });
  const manager = managed(t, { logger, redis: { password: "wrong" } }, strict);
  t.after(() => strict.stop());
  await assert.rejects(manager.ready(), code("AUTH_FAILED"));
  await eventually(() => workers.length >= 5, WAIT_MS, "several keepers have tried");
  assert.deepEqual([nearOf(manager).state, nearOf(manager).reason], ["off", "keeper"]);
  assert.match(manager.health().reasons.join(), /the near cache is off: no keeper could be started/);
  await strict.admin.config("SET", "requirepass", "wrong");
  await eventually(() => nearOf(manager).state === "on", WAIT_MS, "the next one is connected");
  const text = "the keeper, which extends locks and keeps the near cache true, could not be connected";
  assert.deepEqual(
    of("keeper").map(({ level, message, fields }) => [level, message, fields!["code"]]),
    [["error", text, "REDTHREAD_AUTH_FAILED"]],
  );
});

test("a shutdown does not wait for a keeper that seeks an absent server", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const port = await freePort();
  const manager = managed(t, { redis: { port }, retry: { deadlineMs: 50_000 } });
  await eventually(() => workers.length === 2 && manager.stats().keeper?.state === "connecting");
  await eventually(() => manager.stats().breaker.state !== "closed", WAIT_MS, "Redis is away");
  assert.deepEqual([nearOf(manager).state, manager.stats().connections.open], ["starting", 0]);
  assert.ok(manager.health().reasons.some((reason) => reason.startsWith("the near cache is not on yet")));
  const exited = once(workers[1]!, "exit");
  await manager.shutdown();
  assert.deepEqual(await exited, [0], "it has not been ended by force");
});

test("the end of the keeper is told with what it was for, and the next one takes its place", LIMIT, async (t) => {
  const workers = newWorkers(t);
  const { logger, of } = logged();
  const manager = await serving(t, { logger });
  const { connects } = nearOf(manager);
  const ended = workers.length;
  const [keeper] = workers.slice(1);
  await keeper!.terminate();
  await eventually(() => nearOf(manager).connects > connects && nearOf(manager).leaseMs > 0, WAIT_MS, "it is on again");
  assert.equal(workers.length, ended + 1);
  assert.equal(of("the keeper, which extends locks and keeps the near cache true, has ended").length, 1);
});

test("a manager whose connections.max has no place for the keeper of a near cache is refused", LIMIT, async (t) => {
  assert.throws(
    () => managed(t, { connections: { max: 3 } }),
    (error) =>
      code("CONFIG_INVALID")(error) && /connections\.max: must be at least 4 for a near cache/.test(String(error)),
  );
  const manager = await serving(t, { connections: { max: 4 } });
  assert.equal(await manager.run("read", "model:in the last place"), null);
});

function reads(own: number, misses: number, rest: Partial<NearCounts> = {}): NearCounts {
  return { ...NONE, hits: { own, shared: 0 }, misses, fills: misses, ...rest };
}

test("advice is given where many reads, or many writes, show that the cache is of little use", () => {
  assert.equal(adviceOn(reads(10, 900, { elsewhere: 900, fills: 0 }), 9_000, true), undefined, "too few of both");
  assert.equal(adviceOn(reads(1_100, 900), 1_050, true), undefined, "about as many writes as hits");
  assert.match(adviceOn(reads(10, 900), 100_000, true)!, /^keys are written more often/);
  assert.equal(adviceOn(reads(9_000, 1_000), 8_000, true), undefined, "all is well");
  assert.equal(adviceOn(reads(100, 4_000), 50, false), undefined, "many keys, each read once");
  assert.match(adviceOn(reads(9_000, 1_000), 9_001, false)!, /^keys are written more often/);
  assert.match(adviceOn(reads(100, 4_000, { fills: 10, outdated: 3_990 }), 50, false)!, /^keys are written more often/);
  assert.match(
    adviceOn(reads(2_000, 4_000, { fills: 1, oversize: 3_999 }), 0, false)!,
    /raise nearCache.maxValueBytes/,
  );
  assert.match(adviceOn(reads(2_000, 4_000, { fills: 0, elsewhere: 4_000 }), 0, false)!, /balancer/);
  assert.match(adviceOn(reads(100, 4_000, { unleased: 2_001 }), 0, false)!, /raise nearCache.maxStaleMs/i);
  assert.match(adviceOn(reads(100, 4_000), 0, true)!, /raise nearCache.maxBytes/);
  assert.match(adviceOn(reads(0, 4_000, { fills: 0, unleased: 100 }), 0, false)!, /PTTL/);
  assert.match(
    adviceOn(reads(0, 4_000, { fills: 0, oversize: 1, unleased: 3_999 }), 0, false)!,
    /raise nearCache.maxStaleMs/i,
  );
});
