import assert from "node:assert/strict";
import { after, type TestContext, test } from "node:test";
import { noopLogger } from "../../src/core/log.js";
import { sharedClock } from "../../src/core/clock.js";
import { KeeperHost } from "../../src/locks/keeper-host.js";
import { KeeperLink, type KeeperLinkOptions } from "../../src/locks/keeper-link.js";
import type { AttachMessage } from "../../src/locks/keeper-protocol.js";
import type { KeeperEvents, StartedKeeper } from "../../src/locks/keeper-thread.js";
import { LockTable, OWNED } from "../../src/locks/lock-table.js";
import { openLocker } from "../../src/locks/open-locker.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { configFor } from "../support/fast-config.js";
import { eventually } from "../support/gate.js";
import { newWorkers } from "../support/keeper.js";
import { code, fixture, manage } from "../support/manage.js";
import { own } from "../support/own-client.js";
import { startRedis } from "../support/redis-server.js";

const LIMIT = { timeout: 60_000 };
/** Two thirds of it are left for the start of another keeper, which takes up to a second on a busy machine. */
const TTL_MS = 3_000;
const server = await startRedis();
after(() => server.stop());

const tasks = fixture("lock-tasks");

const isThere = (...keys: string[]): Promise<boolean> => server.admin.exists(...keys).then((n) => n === keys.length);

/** A manager with so many threads whose keeper is connected, and that keeper. */
async function withKeeper(t: TestContext, count: number) {
  const workers = newWorkers(t);
  const manager = manage<typeof Tasks>(t, server, { tasks, threads: { count } });
  await manager.ready();
  const before = workers.length;
  await manager.withLock("starts the keeper", {}, async () => {});
  await Promise.all(Array.from({ length: count }, (_, i) => manager.run("tryOnce", { key: `before ${i}` })));
  return { manager, keeper: workers[before]!, next: () => workers[before + 1] };
}

/** Fails if a key is away at any look. */
async function staysFor(ms: number, ...keys: string[]): Promise<void> {
  const until = performance.now() + ms;
  while (performance.now() < until) assert.ok(await isThere(...keys), "the lock is held throughout");
}

test("two computing threads keep their locks although the keeper ends meanwhile", LIMIT, async (t) => {
  const { manager, keeper } = await withKeeper(t, 2);
  const keys = ["computed", "computed, too"];
  const computing = keys.map((key) =>
    manager.run("compute", { key, ttlMs: TTL_MS, ms: 3 * TTL_MS }, { exclusive: true }),
  );
  await eventually(() => isThere(...keys), 30_000, "the locks are held");
  await keeper.terminate();
  await staysFor(2 * TTL_MS, ...keys);
  assert.equal(manager.stats().keeper?.held, 2, "each one counts once");
  await Promise.all(computing); // it would reject with the loss
});

test("a thread that never took its port to the next keeper leaves no lock when it ends", LIMIT, async (t) => {
  const { manager, keeper } = await withKeeper(t, 1);
  const dying = manager.run("computeThenExit", { key: "never taken", ttlMs: 60_000, ms: 2_000 });
  const died = assert.rejects(dying, code("THREAD_DIED"));
  await eventually(() => isThere("never taken"), 30_000, "the lock is held");
  await keeper.terminate();
  await eventually(() => manager.stats().keeper?.state === "connected", 10_000, "the next keeper is connected");
  await died;
  await eventually(async () => !(await isThere("never taken")), 10_000, "the lock is free");
});

test("the next keeper counts a lock once, whoever tells it of the lock's memory", LIMIT, async (t) => {
  const { manager, keeper, next } = await withKeeper(t, 1);
  const lock = await manager.acquireLock("told twice", { ttlMs: 60_000 });
  await keeper.terminate();
  await eventually(() => next(), 10_000, "the next keeper is started");
  await eventually(() => manager.stats().keeper?.state === "connected", 10_000, "and connected");
  await new Promise((resolve) => setTimeout(resolve, 500)); // the owner has told of it, and the keeper has looked
  assert.equal(manager.stats().keeper?.held, 1);
  await lock.release();
});

const listeners = async (): Promise<number> => Number((await server.admin.pubsub("NUMSUB", "{awaited}:released"))[1]);

test("a waiter of the keeper that ended is told of the release by the next one", LIMIT, async (t) => {
  const { manager, keeper } = await withKeeper(t, 1);
  const lock = await manager.acquireLock("awaited", { ttlMs: 60_000 });
  const waiting = manager.run("count", { key: "awaited", times: 1, waitMs: 50_000 });
  await eventually(async () => (await listeners()) === 1, 30_000, "it waits");
  await keeper.terminate();
  await eventually(async () => (await listeners()) === 0, 10_000, "nothing tells of the release");
  await eventually(async () => (await listeners()) === 1, 10_000, "the next keeper listens");
  await lock.release();
  await waiting;
});

test("a thread with a keeper of its own gets the next one, and that holds no process", LIMIT, async (t) => {
  const redis = await own(t, server);
  const workers = newWorkers(t);
  const locker = openLocker({ config: configFor(server), logger: noopLogger, getRedis: async () => redis });
  const lock = await locker.acquire("of its own", { ttlMs: TTL_MS });
  await workers[0]!.terminate();
  await staysFor(1.5 * TTL_MS, "of its own");
  assert.equal(workers.length, 2);
  lock.assertHeld();
  await lock.release();
  await locker.close(5_000);
});

/** A host whose keepers are none: what they are told, and what they tell. */
function hosted(t: TestContext) {
  const keepers: { readonly messages: Parameters<StartedKeeper["post"]>[0][]; readonly events: KeeperEvents }[] = [];
  const host = new KeeperHost({ config: configFor(server), logger: noopLogger }, (_ledger, events) => {
    const messages: Parameters<StartedKeeper["post"]>[0][] = [];
    keepers.push({ messages, events });
    return { post: (message) => void messages.push(message), close: async () => {} };
  });
  t.after(() => host.close(1));
  return { host, keepers };
}

function linked(t: TestContext, options: KeeperLinkOptions): KeeperLink {
  const link = new KeeperLink(options);
  t.after(() => link.close());
  return link;
}

function attached(messages: readonly { readonly type: string }[] = []): AttachMessage[] {
  return messages.filter((message): message is AttachMessage => message.type === "attach");
}

/** Memory in which one lock is held. */
function heldTable(ttlMs = 60_000): SharedArrayBuffer {
  const table = LockTable.make(1, 64);
  const lease = { kind: OWNED, key: "key", token: "token", ttlMs, maxHoldMs: Infinity, replicas: 0 } as const;
  const [record] = table.records;
  record!.confirm(record!.begin(lease, "", sharedClock()), sharedClock());
  return table.buffer;
}

test(
  "callers of a thread that has ended wait no more, although no keeper has released its locks yet",
  LIMIT,
  async (t) => {
    const { host } = hosted(t);
    const buffer = heldTable();
    new LockTable(buffer).countWaiting(1);
    const { port } = await host.attach();
    port.postMessage({ type: "table", table: 0, buffer });
    await eventually(() => host.waiting === 1, 5_000, "one waits");
    port.close();
    await eventually(() => host.waiting === 0, 5_000, "none waits");
  },
);

test("an owner that asks while its host hands it to the next keeper is one owner to that keeper", LIMIT, async (t) => {
  const { host, keepers } = hosted(t);
  const buffer = heldTable();
  const link = linked(t, {
    attach: () => host.attach(),
    buffers: () => [buffer],
    isNeeded: () => true, // it asks by itself, too
    onLost: () => {},
    onFailure: () => {},
  });
  const opened = link.open();
  await eventually(() => keepers.length === 1);
  keepers[0]!.events.connected();
  await opened;
  link.addTable(buffer, 0);
  await eventually(() => keepers[0]!.messages.some(({ type }) => type === "table"));
  for (const i of [0, 1]) {
    const [message] = attached(keepers[i]!.messages);
    message!.port.close(); // the owner hears of it
    if (i === 1) await new Promise((resolve) => setTimeout(resolve, 50)); // … before its host
    keepers[i]!.events.ended();
    await eventually(() => keepers.length === i + 2);
    const again = link.open();
    await new Promise((resolve) => setTimeout(resolve, 50));
    keepers[i + 1]!.events.connected();
    await again;
    await eventually(() => link.isOpen);
    const owners = attached(keepers[i + 1]!.messages);
    assert.deepEqual(
      owners.map(({ owner, tables }) => [owner, tables.length]),
      [[message!.owner, 1]],
    );
  }
});

test("an owner that ends while there is no keeper is told to the next one, as gone", LIMIT, async (t) => {
  const { host, keepers } = hosted(t);
  const { port } = await host.attach();
  t.after(() => port.close());
  port.postMessage({ type: "wanted" });
  port.postMessage({ type: "table", table: 0, buffer: heldTable() });
  await eventually(() => keepers.length === 1);
  for (const i of [0, 1]) keepers[i]?.events.ended(); // at once: the next keeper comes after a pause
  await eventually(() => keepers.length === 2);
  keepers[1]!.events.ended();
  port.close();
  await eventually(() => keepers.length === 3, 10_000);
  const [{ owner, tables }] = attached(keepers[2]!.messages) as [AttachMessage];
  assert.equal(tables.length, 1);
  const gone = { type: "gone", owner, isClosing: true };
  assert.deepEqual(keepers[2]!.messages.at(-1), gone, "its connections are not ended, because their numbers are old");
  keepers[2]!.events.connected();
  keepers[2]!.events.ended();
});

test("an owner is told of the end of a keeper that took no notice of its port", LIMIT, async (t) => {
  const { host, keepers } = hosted(t);
  const link = linked(t, {
    attach: () => host.attach(),
    buffers: () => [],
    isNeeded: () => false,
    onLost: () => {},
    onFailure: () => {},
  });
  const opened = link.open();
  await eventually(() => keepers.length === 1);
  keepers[0]!.events.connected();
  await opened;
  keepers[0]!.events.ended(); // the port lies in the fake, which does not close it
  await eventually(() => !link.isOpen);
});

test(
  "keepers that end at once follow each other after pauses, and only while a lock could be saved",
  LIMIT,
  async (t) => {
    const { host, keepers } = hosted(t);
    const { port } = await host.attach();
    t.after(() => port.close());
    port.postMessage({ type: "table", table: 0, buffer: heldTable(2_000) });
    port.postMessage({ type: "wanted" });
    let last = 0;
    const ending = setInterval(() => {
      for (; last < keepers.length; last++) {
        keepers[last]!.events.failed(new Error("it cannot start"));
        keepers[last]!.events.ended();
      }
    }, 1);
    t.after(() => clearInterval(ending));
    await eventually(() => keepers.length >= 4, 20_000, "it goes on trying");
    await new Promise((resolve) => setTimeout(resolve, 5_000)); // the lock's time is over, and the longest pause
    const tries = keepers.length;
    assert.ok(tries < 40, `${tries} keepers in 2 s`);
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    assert.equal(keepers.length, tries, "nothing is left to save");
    port.postMessage({ type: "wanted" });
    await eventually(() => keepers.length > tries, 10_000, "the next lock has another one started");
    port.close();
  },
);

test("a caller is told why there is no keeper, and the host goes on while a lock is held", LIMIT, async (t) => {
  const { host, keepers } = hosted(t);
  const told: unknown[] = [];
  const link = linked(t, {
    attach: () => host.attach(),
    buffers: () => [],
    isNeeded: () => true,
    onLost: () => {},
    onFailure: (error) => told.push(error),
  });
  const refused = assert.rejects(link.open(), /away/);
  await eventually(() => keepers.length === 1);
  link.addTable(heldTable(), 0);
  keepers[0]!.events.failed(new Error("Redis is away"));
  await refused;
  keepers[0]!.events.ended();
  await eventually(() => keepers.length === 2, 10_000);
  keepers[1]!.events.connected();
  await eventually(() => link.isOpen, 10_000, "nothing asked for it");
  assert.deepEqual(told, []);
});
