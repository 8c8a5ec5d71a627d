import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { connect, type ConnectionManager, disconnect, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/soak-tasks.js";
import { CountedLoad } from "../support/counted-load.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const THREADS = 2;

let server: RedisServer;
before(async () => {
  server = await startRedis({ args: ["--enable-debug-command", "local"] });
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

function managed(t: TestContext, redis: ManagerOptions["redis"]): ConnectionManager<typeof Tasks> {
  return manage<typeof Tasks>(t, server, { tasks: fixture("soak-tasks"), threads: { count: THREADS }, redis });
}

function startLoad(manager: ConnectionManager<typeof Tasks>): CountedLoad {
  let writes = 0;
  return new CountedLoad({
    callers: 8 * THREADS,
    write: (key) => manager.run(++writes % 4 === 0 ? "incrDedicated" : "incr", key),
  });
}

test("a server that accepts and stays silent is CONNECT_FAILED after each attempt's time, and is used once it wakes", async (t) => {
  const redis = { port: server.port, connectTimeoutMs: 300 };
  const manager = managed(t, redis);
  server.freeze();
  t.after(() => server.thaw());
  const startedAt = performance.now();
  await assert.rejects(connect({ env: {}, redis, retry: { attempts: 1 } }), code("CONNECT_FAILED"));
  const once = performance.now() - startedAt;
  await assert.rejects(connect({ env: {}, redis, retry: { deadlineMs: 1_000 } }), code("CONNECT_FAILED"));
  // Neither the 10 s that an attempt has by default, nor an attempt without an end.
  assert.ok(once < 5_000, `${once} ms`);
  const first = manager.run("incr", "n");
  const ready = manager.ready();
  await eventually(() => manager.stats().breaker.state !== "closed");
  server.thaw();
  await ready;
  assert.equal(await first, 1);
});

const FAULTS: Record<string, () => Promise<unknown>> = {
  "is paused": () => server.admin.client("PAUSE", 500, "ALL"),
  "is paused for writes": () => server.admin.client("PAUSE", 500, "WRITE"),
  sleeps: () => server.admin.call("DEBUG", "SLEEP", "0.5"),
  "is frozen": async () => {
    server.freeze();
    await new Promise((resolve) => setTimeout(resolve, 500));
    server.thaw();
  },
};

for (const [what, provoke] of Object.entries(FAULTS)) {
  test(`while the server ${what} commands wait, and not one fails`, async (t) => {
    const manager = managed(t, {});
    await manager.ready();
    const load = startLoad(manager);
    await load.progress(100);
    await provoke();
    await load.progress(100);
    await load.stop();
    t.diagnostic(load.summary());
    assert.deepEqual(await load.problems(server), []);
    const { uncertain, notSent } = load.ledger.totals;
    assert.deepEqual({ uncertain, notSent }, { uncertain: 0, notSent: 0 });
    assert.ok(manager.stats().threads.every(({ reconnects }) => reconnects === 0));
  });

  test(`a server that ${what} for longer than a command may take runs no command twice and loses none it acknowledged`, async (t) => {
    const manager = managed(t, { commandTimeoutMs: 100, connectTimeoutMs: 200, heartbeatMs: 100 });
    await manager.ready();
    const load = startLoad(manager);
    await load.progress(100);
    await provoke();
    await load.progress(100);
    await load.stop();
    await manager.shutdown();
    await server.waitForClients((clients) => clients.length === 0);
    t.diagnostic(load.summary());
    assert.deepEqual(await load.problems(server), []);
    assert.ok(load.ledger.totals.uncertain > 0, "the fault has hit nothing");
  });
}

test("a server that closes idle connections costs no write, and the closed connections come back by themselves", async (t) => {
  await server.admin.config("SET", "timeout", "1");
  t.after(() => server.admin.config("SET", "timeout", "0").then(() => undefined));
  const manager = managed(t, {});
  await manager.ready();
  const idle = await connect({ env: {}, redis: { port: server.port } });
  const primaryOf = async (): Promise<string | undefined> =>
    (await server.clients()).find(({ name }) => name.endsWith(":primary"))?.id;
  const load = startLoad(manager);
  const id = await eventually(async () => (await primaryOf()) ?? false);
  // No caller uses the primary while the threads write.
  await eventually(async () => ![undefined, id].includes(await primaryOf()), 10_000);
  await load.progress(100);
  await load.stop();
  assert.equal(await idle.incr("after"), 1);
  await disconnect(idle);
  t.diagnostic(load.summary());
  assert.deepEqual(await load.problems(server), []);
  assert.equal(load.ledger.totals.notSent, 0);
});
