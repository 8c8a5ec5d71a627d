import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { test, type TestContext } from "node:test";
import { Redis } from "ioredis";
import type { LogFields } from "../../src/core/log.js";
import { connRetry } from "../../src/core/retry.js";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { makeClient, openClient, rejection, serverPerTest } from "../support/make-client.js";
import { code, fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import type { RedisServer } from "../support/redis-server.js";

const startServer = serverPerTest();

const configure = (server: RedisServer, ...settings: string[]): Promise<unknown> =>
  server.admin.call("CONFIG", "SET", ...settings);

/** Whether the command is rejected with this reply of the server. */
async function isRefused(command: PromiseLike<unknown>, reply: string): Promise<boolean> {
  const error = await rejection(command);
  return error?.name === "ReplyError" && error.message.startsWith(`${reply} `);
}

/** Runs `command` under connRetry, and `heal` once the first call has failed. Returns the number of calls and the error. */
async function retried(command: () => Promise<unknown>, heal?: () => Promise<unknown>) {
  let calls = 0;
  const wrapped = connRetry("Redis", "writing", { baseDelayMs: 5, maxDelayMs: 20, deadlineMs: 10_000 })(async () => {
    if (++calls === 2) await heal?.();
    return command();
  });
  return { error: await rejection(wrapped()), calls };
}

/** A client that starts to connect while the server is not ready, with the reasons of its failed attempts. */
function connecting(t: TestContext, server: RedisServer) {
  const attempts: LogFields[] = [];
  const logger = { ...silent, warn: (_: string, fields?: LogFields) => void attempts.push(fields ?? {}) };
  const client = makeClient(t, server, { logger });
  return { client, attempts, connected: client.connect() };
}

/** Asserts that connecting rejects at the deadline, with the code of the server's last refusal. */
async function assertConnectFails(t: TestContext, server: RedisServer, reply: string): Promise<void> {
  const error = await rejection(makeClient(t, server, { retry: { deadlineMs: 100 } }).connect());
  assert.ok(code("CONNECT_FAILED")(error), String(error));
  assert.match(error!.message, new RegExp(`the server answered ${reply}$`));
}

test("LOADING: after a restart with much data no task fails; each waits until the server serves", async (t) => {
  const slow = ["--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024"];
  const server = await startServer({ args: ["--enable-debug-command", "local", ...slow] });
  const patient = { commandTimeoutMs: 30_000 };
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), redis: patient });
  await manager.ready();
  await server.admin.call("DEBUG", "POPULATE", "5000");
  await server.admin.call("SAVE");
  await server.kill();
  const started = server.start();
  const probe = new Redis({ port: server.port, enableReadyCheck: false, retryStrategy: () => 10 });
  probe.on("error", () => {});
  await eventually(() => isRefused(probe.ping(), "LOADING"));
  const counts = await Promise.all(Array.from({ length: 50 }, () => manager.run("incr", "n")));
  assert.deepEqual(counts.toSorted((a, b) => a - b), Array.from({ length: 50 }, (_, i) => i + 1)); // prettier-ignore
  await started;
  assert.equal(await server.admin.get("n"), "50");
  probe.disconnect();
});

test("LOADING on a live connection is the command's own error, and the connection stays", async (t) => {
  const server = await startServer({ args: ["--enable-debug-command", "local"] });
  const client = await openClient(t, server);
  const id = await client.redis.client("ID");
  await server.admin.call("DEBUG", "POPULATE", "5000");
  await configure(server, "key-load-delay", "100", "loading-process-events-interval-bytes", "1024");
  const reloading = server.admin.call("DEBUG", "RELOAD");
  await eventually(() => isRefused(client.redis.get("key:1"), "LOADING"));
  const { calls, error } = await retried(() => client.redis.get("key:1"));
  assert.ok(error === undefined && calls > 1, `${calls} calls, ${error}`);
  await reloading;
  assert.equal(await client.redis.client("ID"), id);
});

test("MASTERDOWN: live commands reject, new connections wait, and both serve again once the master is back", async (t) => {
  const server = await startServer();
  const client = await openClient(t, server);
  await configure(server, "replica-serve-stale-data", "no");
  await server.admin.call("REPLICAOF", "127.0.0.1", "1");
  assert.ok(await isRefused(client.redis.get("k"), "MASTERDOWN"));
  const late = connecting(t, server);
  await eventually(() => late.attempts.length > 0);
  await assertConnectFails(t, server, "MASTERDOWN");
  const { error, calls } = await retried(
    () => client.redis.get("k"),
    () => server.admin.call("REPLICAOF", "NO", "ONE"),
  );
  assert.deepEqual([error, calls], [undefined, 2]);
  await late.connected;
  assert.equal(await late.client.redis.get("k"), null);
});

test("BUSY: while a script runs commands are refused and connects wait; the connection lives on after SCRIPT KILL", async (t) => {
  const server = await startServer();
  await configure(server, "busy-reply-threshold", "50");
  const [culprit, client] = [await openClient(t, server), await openClient(t, server)];
  const id = await client.redis.client("ID");
  const script = rejection(culprit.redis.eval("while true do end", 0));
  await eventually(() => isRefused(client.redis.get("k"), "BUSY"));
  const late = connecting(t, server);
  await eventually(() => late.attempts.length > 0);
  await assertConnectFails(t, server, "BUSY");
  const { error, calls } = await retried(
    () => client.redis.get("k"),
    () => server.admin.call("SCRIPT", "KILL"),
  );
  assert.equal(error, undefined);
  assert.ok(calls >= 2);
  assert.match((await script)!.message, /killed/i);
  await late.connected;
  assert.equal(await client.redis.client("ID"), id);
});

test("NOREPLICAS: a write rejects and may be repeated until the replicas are back", async (t) => {
  const server = await startServer();
  const client = await openClient(t, server);
  await configure(server, "min-replicas-to-write", "1");
  assert.ok(await isRefused(client.redis.set("k", "v"), "NOREPLICAS"));
  const { error, calls } = await retried(
    () => client.redis.incr("n"),
    () => configure(server, "min-replicas-to-write", "0"),
  );
  assert.deepEqual([error, calls, await client.redis.get("n")], [undefined, 2, "1"]);
});

test("OOM: writes fail at once, reads are served, the connection stays", async (t) => {
  const server = await startServer();
  const client = await openClient(t, server);
  const id = await client.redis.client("ID");
  await configure(server, "maxmemory", "1");
  const { error, calls } = await retried(() => client.redis.set("k", "v"));
  assert.match(error!.message, /^OOM /);
  assert.deepEqual([calls, await client.redis.get("k"), await client.redis.client("ID")], [1, null, id]);
});

test("MISCONF: writes fail at once; reads are served, also to a client that connects only now", async (t) => {
  const server = await startServer({ args: ["--enable-protected-configs", "local"] });
  const client = await openClient(t, server);
  await client.redis.set("k", "v");
  const folder = await mkdtemp(join(tmpdir(), "redthread-misconf-"));
  await configure(server, "dir", folder, "save", "1 1");
  await rm(folder, { recursive: true });
  await server.admin.bgsave();
  await eventually(() => isRefused(client.redis.set("other", "w"), "MISCONF"));
  const { calls } = await retried(() => client.redis.set("k", "w"));
  assert.equal(calls, 1);
  // Redis answers MISCONF to PING as well.
  const late = await openClient(t, server);
  assert.equal(await late.redis.get("k"), "v");
});

test("maxclients: a connect is MAXCLIENTS_SUSPECTED, connected clients go on working, and it connects when there is room", async (t) => {
  const server = await startServer();
  const client = await openClient(t, server);
  await configure(server, "maxclients", "2"); // the observer and this client
  const refused = makeClient(t, server, { retry: { deadlineMs: 100 } });
  await assert.rejects(refused.connect(), code("MAXCLIENTS_SUSPECTED"));
  assert.equal(await client.redis.ping(), "PONG");
  const late = connecting(t, server);
  await eventually(() => late.attempts.length > 0);
  await configure(server, "maxclients", "10");
  await late.connected;
});

test("NOPERM: fails at once, for a user that may not even PING", async (t) => {
  const acl =
    "user default off\nuser admin on >adminpw ~* &* +@all\nuser bare on >barepw ~app:* -@all +get +client|setname";
  const server = await startServer({ acl, observer: { username: "admin", password: "adminpw" } });
  const client = await openClient(t, server, { redis: { username: "bare", password: "barepw" } });
  assert.equal(await client.redis.get("app:k"), null);
  for (const refused of [() => client.redis.get("other"), () => client.redis.set("app:k", "v")]) {
    const { error, calls } = await retried(refused);
    assert.match(error!.message, /^NOPERM /);
    assert.equal(calls, 1);
  }
});

test("WRONGPASS and NOAUTH: AUTH_FAILED at the first attempt, and the secret is in no message, field, cause or log line", async (t) => {
  const server = await startServer({ args: ["--requirepass", "right"], observer: { password: "right" } });
  for (const [password, reply] of [
    ["s3cret-guess", "WRONGPASS"],
    [undefined, "NOAUTH"],
  ] as const) {
    const lines: unknown[] = [];
    const keep = (...line: unknown[]): void => void lines.push(line);
    const logger = { debug: keep, info: keep, warn: keep, error: keep };
    const client = makeClient(t, server, { logger, redis: { ...(password && { password }) } }); // prettier-ignore
    let attempts = 0;
    client.redis.on("connect", () => attempts++);
    const error = await rejection(client.connect());
    assert.ok(code("AUTH_FAILED")(error));
    assert.equal((error as Error & { reply?: string }).reply, reply);
    assert.equal(attempts, 1);
    assert.doesNotMatch(inspect([error, lines], { depth: null, showHidden: true }), /s3cret/);
  }
});

test("a database that the server does not have is CONNECT_FAILED, and nothing is written to database 0 instead", async (t) => {
  const server = await startServer();
  const client = makeClient(t, server, { redis: { db: 99, commandTimeoutMs: 100 }, retry: { deadlineMs: 100 } });
  await assert.rejects(client.connect(), code("CONNECT_FAILED"));
  await rejection(client.redis.set("k", "v"));
  assert.equal(await server.admin.dbsize(), 0);
});
