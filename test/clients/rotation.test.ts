import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually, gate } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis({ loglevel: "verbose" });
});
after(() => server.stop());

const TTL_MS = 200;
const FOR_MS = 5_000;

type Manager = ConnectionManager<typeof Tasks>;

function rotating(t: TestContext, ttlMs = TTL_MS): Manager {
  return manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), primary: { ttlMs }, threads: { count: 1 } });
}

async function primaries(): Promise<number> {
  return (await server.clients()).filter(({ name }) => name.endsWith(":primary")).length;
}

interface Observed {
  commands: number;
  mostPrimaries: number;
}

/** Eight callers run commands without a pause until the time is over. A failed command fails the test. */
async function constantUse(incr: () => Promise<unknown>): Promise<Observed> {
  const observed = { commands: 0, mostPrimaries: 0 };
  const until = performance.now() + FOR_MS;
  const isOver = (): boolean => performance.now() >= until;
  const callers = Array.from({ length: 8 }, async () => {
    while (!isOver()) {
      await incr();
      observed.commands++;
    }
  });
  const sampling = (async () => {
    while (!isOver()) observed.mostPrimaries = Math.max(observed.mostPrimaries, await primaries());
  })();
  await Promise.all([...callers, sampling]);
  return observed;
}

async function goodbye(manager: Manager): Promise<void> {
  await manager.shutdown();
  assert.equal(await primaries(), 0);
  // Also every primary that was replaced: each said QUIT, and none was just dropped.
  assert.doesNotMatch(server.log(), /Reading from client|Client closed connection .*:primary/);
}

test("under constant use the primary is replaced again and again, and no command fails", async (t) => {
  const manager = rotating(t);
  const { commands, mostPrimaries } = await constantUse(() => manager.use((redis) => redis.incr("used")));
  const { rotations } = manager.stats().primary;
  t.diagnostic(`${commands} commands, ${rotations} rotations, at most ${mostPrimaries} primaries`);
  assert.ok(rotations >= 10, `${rotations} rotations`);
  assert.ok(mostPrimaries <= 2, `${mostPrimaries} primaries`);
  assert.equal(Number(await server.admin.get("used")), commands);
  await goodbye(manager);
});

test("a client from getRedis() is good for its turn, whatever is replaced meanwhile", async (t) => {
  const manager = rotating(t);
  const { commands, mostPrimaries } = await constantUse(async () => (await manager.getRedis()).incr("got"));
  const { rotations } = manager.stats().primary;
  t.diagnostic(`${commands} commands, ${rotations} rotations, at most ${mostPrimaries} primaries`);
  assert.ok(rotations >= 3, `${rotations} rotations`); // each waits a second for the callers that got the old client
  assert.ok(mostPrimaries <= 2, `${mostPrimaries} primaries`);
  assert.equal(Number(await server.admin.get("got")), commands);
  await goodbye(manager);
});

test("a client from getRedis() still works just after it was replaced", async (t) => {
  const manager = rotating(t, 200);
  const redis = await manager.getRedis();
  await eventually(async () => (await manager.use((other) => other.ping()), manager.stats().primary.rotations === 1));
  for (let i = 1; i <= 10; i++) assert.equal(await redis.incr("just after"), i);
});

test("a caller that holds on to a client across rotations keeps it, and it is closed after that caller", async (t) => {
  const manager = rotating(t, 20);
  const done = gate();
  const held = manager.use(async (redis) => {
    const id = await redis.client("ID");
    await done.promise;
    assert.equal(await redis.incr("held"), 1);
    assert.equal(await redis.client("ID"), id);
    return id;
  });
  const other = async (): Promise<number> => manager.use((redis) => redis.client("ID"));
  await eventually(async () => (await other(), manager.stats().primary.rotations === 1));
  // One rotation at a time: while the caller holds the old client, there is no third, however often the ttl is over.
  for (let i = 0; i < 50; i++) await other();
  assert.equal(manager.stats().primary.rotations, 1);
  assert.equal(await primaries(), 2);
  done.open();
  const id = await held;
  assert.notEqual(await other(), id);
  await eventually(async () => (await other(), manager.stats().primary.rotations > 2));
  await server.waitForClients((clients) => clients.every((client) => client.id !== String(id)));
});

test("a failing replacement leaves the old client in use until one succeeds", async (t) => {
  const manager = rotating(t, 20);
  const first = await manager.use((redis) => redis.client("ID"));
  const maxclients = String(((await server.admin.client("LIST")) as string).trim().split("\n").length);
  await server.admin.config("SET", "maxclients", maxclients);
  t.after(() => server.admin.config("SET", "maxclients", "10000").then(() => undefined));
  const rejected = async (): Promise<number> =>
    Number(/rejected_connections:(\d+)/.exec(await server.admin.info("stats"))![1]);
  await eventually(async () => {
    assert.equal(await manager.use((redis) => redis.client("ID")), first);
    return (await rejected()) > 1;
  });
  await server.admin.config("SET", "maxclients", "10000");
  await eventually(async () => (await manager.use((redis) => redis.client("ID"))) !== first);
});
