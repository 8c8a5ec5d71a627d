import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { connect, type ConnectionManager, disconnect, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/credential-tasks.js";
import { eventually } from "../support/gate.js";
import { leakCheck } from "../support/leak-check.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { Tokens } from "../support/tokens.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

type Manager = ConnectionManager<typeof Tasks>;

function manageWith(t: TestContext, tokens: Tokens, options: Partial<ManagerOptions> = {}): Manager {
  return manage<typeof Tasks>(t, server, {
    tasks: fixture("credential-tasks"),
    retry: { baseDelayMs: 10, maxDelayMs: 50, ...options.retry },
    ...options,
    redis: { credentials: tokens.provider, ...options.redis },
  });
}

const reconnects = (manager: Manager): number =>
  manager.stats().threads.reduce((sum, thread) => sum + thread.reconnects, 0);

test("credentials that change every second, and whose old connections end, go unnoticed by tasks, leases and subscribers", async (t) => {
  const tokens = new Tokens(server, { lifeMs: 1_300 });
  const lines: string[] = [];
  const note = (message: string, fields?: object): void => void lines.push(message + JSON.stringify(fields));
  const logger = { debug: note, info: note, warn: note, error: note };
  const manager = manageWith(t, tokens, { logger, threads: { count: 2 } });
  await manager.ready();
  const heard: string[] = [];
  let gaps = 0;
  await manager.subscribe("news", (message) => void heard.push(message), { onGap: () => void gaps++ });
  const isOver = (): boolean => tokens.issued.length >= 7;
  let acknowledged = 0;
  let transactions = 0;
  const load = Array.from({ length: 8 }, async () => {
    for (; !isOver(); acknowledged++) await manager.run("incr", "rotated");
  });
  const primary = Array.from({ length: 2 }, async () => {
    for (; !isOver(); acknowledged++) await manager.use((redis) => redis.incr("rotated"));
  });
  const leases = Array.from({ length: 4 }, async () => {
    for (; !isOver(); transactions++) {
      const { users } = await manager.run("transaction", { key: "leased", ms: 50 + Math.random() * 500 });
      assert.equal(users, 1, "never AUTHed inside a MULTI");
    }
  });
  await Promise.all([...load, ...primary, ...leases]);
  const redis = await manager.getRedis();
  assert.equal(Number(await redis.get("rotated")), acknowledged);
  assert.equal(Number(await redis.get("leased")), transactions);
  assert.equal(reconnects(manager), 0);
  await redis.publish("news", "still there");
  await eventually(() => heard.length === 1);
  assert.equal(gaps, 0);
  assert.equal(await manager.run("whoAmI"), tokens.newest);
  const closed = manager.stats().threads.map(({ dedicated }) => dedicated.closed);
  assert.ok(
    closed.some(({ dirty }) => dirty > 0),
    "leased ones were retired on return",
  );
  assert.ok(closed.every(({ dead, failed }) => dead + failed === 0));
  for (const secret of tokens.secrets) assert.ok(!lines.some((line) => line.includes(secret)), "a secret was logged");
  t.diagnostic(`${acknowledged} commands, ${transactions} transactions, ${tokens.issued.length} logins`);
});

test("idle dedicated clients are logged in again instead of being closed", async (t) => {
  const tokens = new Tokens(server, { lifeMs: 1_000 });
  const manager = manageWith(t, tokens, { threads: { count: 1 } });
  await manager.run("leases", 3);
  const dedicated = async () => (await server.clients()).filter(({ name }) => name.endsWith("dedicated"));
  const old = (await dedicated()).map(({ id }) => id);
  await eventually(() => tokens.issued.length >= 5, 15_000);
  // Checked at the server: a client that is leased when a login comes would be retired for it.
  await eventually(async () => {
    assert.deepEqual(new Set((await dedicated()).map(({ user }) => user)), new Set([tokens.newest]));
  });
  assert.deepEqual(
    (await dedicated()).map(({ id }) => id),
    old,
  );
});

test("credentials that are revoked early are fetched anew, once for all threads", async (t) => {
  const tokens = new Tokens(server);
  const manager = manageWith(t, tokens, { threads: { count: 4 } });
  await manager.ready();
  await Promise.all(Array.from({ length: 8 }, () => manager.run("incr", "revoked")));
  const [first] = tokens.issued;
  await tokens.revoke(first!); // the server closes all connections
  await eventually(async () => {
    const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => manager.run("whoAmI")));
    assert.ok(outcomes.every((outcome) => outcome.status === "fulfilled" && outcome.value === tokens.newest));
  });
  assert.equal(await (await manager.getRedis()).acl("WHOAMI"), tokens.newest);
  assert.equal(tokens.calls, 2);
});

test("credentials that are refused when fresh fail the connect, after one more call of the provider", async (t) => {
  let calls = 0;
  const provider = () => ({ username: "nobody", password: `wrong ${++calls}` });
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("credential-tasks"),
    redis: { credentials: provider },
  });
  await assert.rejects(manager.getRedis(), (error) => {
    assert.ok(!(error as Error).message.includes("wrong"));
    return code("AUTH_FAILED")(error);
  });
  assert.equal(calls, 2);
});

test("open connections that refuse new credentials log it, go on serving, and take the next credentials", async (t) => {
  const tokens = new Tokens(server, { lifeMs: 1_000, keep: 100 });
  const refused: string[] = [];
  const lines: string[] = [];
  const note = (message: string, fields?: Readonly<Record<string, unknown>>): void => {
    lines.push(message + JSON.stringify(fields));
    if (message.includes("refused by an open connection")) refused.push(String(fields?.["name"]));
  };
  let isMistaken = false;
  const provider = () => {
    if (!isMistaken) return tokens.provider();
    isMistaken = false;
    return { username: "nobody", password: "a wrong secret" };
  };
  const manager = manageWith(t, tokens, {
    redis: { credentials: provider },
    logger: { debug: note, info: note, warn: note, error: note },
    threads: { count: 1 },
  });
  const primary = await manager.getRedis();
  await manager.run("incr", "refusing");
  const open = await server.clients();
  isMistaken = true;
  await eventually(() => refused.length >= open.length);
  const { length } = tokens.issued;
  await eventually(async () => {
    const users = [await manager.run("whoAmI"), await primary.acl("WHOAMI")];
    assert.deepEqual(users, [tokens.newest, tokens.newest]);
    assert.ok(tokens.issued.length > length);
  });
  assert.deepEqual(
    (await server.clients()).map(({ id }) => id),
    open.map(({ id }) => id),
  );
  assert.deepEqual(refused.toSorted(), open.map(({ name }) => name).toSorted());
  assert.ok(!lines.some((line) => line.includes("a wrong secret")));
});

test("a provider that fails for a while costs time, not tasks", async (t) => {
  const tokens = new Tokens(server, { lifeMs: 1_000 });
  tokens.failure = new Error("the identity service is away");
  const manager = manageWith(t, tokens);
  const ready = manager.ready();
  await eventually(() => tokens.calls >= 3);
  tokens.failure = undefined;
  await ready;
  await manager.run("incr", "failing");
  const { calls } = tokens;
  tokens.failure = new Error("away again");
  await eventually(() => tokens.calls >= calls + 3, 10_000);
  const served = await Promise.all(Array.from({ length: 20 }, () => manager.run("incr", "failing")));
  assert.equal(Math.max(...served), 21);
  tokens.failure = undefined;
  await eventually(async () => (await manager.run("whoAmI")) === tokens.newest);
  assert.equal(reconnects(manager), 0);
});

test("a provider that never gives credentials: CONNECT_FAILED in main thread and threads, with its last error", async (t) => {
  const tokens = new Tokens(server);
  tokens.failure = Object.assign(new Error("no identity"), { code: "E_IDENTITY" });
  const manager = manageWith(t, tokens, { retry: { deadlineMs: 300, baseDelayMs: 10, maxDelayMs: 20 } });
  for (const connecting of [manager.getRedis(), manager.run("incr", "never")]) {
    await assert.rejects(connecting, (error) => {
      const reason = (error as Error).cause as Error;
      assert.match(String(reason), /redis\.credentials gave no login in time/);
      assert.equal((reason.cause as { code?: string }).code, "E_IDENTITY");
      return code("CONNECT_FAILED")(error);
    });
  }
});

test("a provider that gives something else than credentials is reported at once", async (t) => {
  const provider = (() => ({ username: "app", token: "abc" })) as never;
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("credential-tasks"),
    redis: { credentials: provider },
  });
  await assert.rejects(manager.getRedis(), (error) => {
    assert.match(String(error), /password must be text/);
    return code("CONFIG_INVALID")(error);
  });
  await assert.rejects(manager.run("incr", "never"), code("CONFIG_INVALID"));
});

test("a thread that replaces a dead one gets the login too", async (t) => {
  const tokens = new Tokens(server);
  const manager = manageWith(t, tokens, { threads: { count: 1 } });
  await manager.run("incr", "replaced");
  await assert.rejects(manager.run("exit"), code("THREAD_DIED"));
  assert.equal(await manager.run("whoAmI"), tokens.newest);
  assert.equal(tokens.calls, 1);
});

test("a client of connect() is logged in again between its transactions, and its provider ends with it", async (t) => {
  const tokens = new Tokens(server, { lifeMs: 800, keep: 100 });
  leakCheck(t, server);
  const redis = await connect({ env: {}, redis: { port: server.port, credentials: tokens.provider } });
  await redis.multi({ pipeline: false });
  await redis.incr("owned");
  const { length } = tokens.issued;
  await eventually(() => tokens.issued.length > length);
  await redis.acl("WHOAMI");
  const [, inside] = (await redis.exec())!;
  assert.deepEqual(inside, [null, tokens.issued[0]]);
  await eventually(async () => (await redis.acl("WHOAMI")) === tokens.newest);
  await disconnect(redis);
  const { calls } = tokens;
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  assert.equal(tokens.calls, calls);
});
