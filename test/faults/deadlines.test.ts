import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import { Redis } from "ioredis";
import type * as Tasks from "../fixtures/blocked-tasks.js";
import { blockLater } from "../support/block.js";
import { eventually } from "../support/gate.js";
import { makeClient, openClient, rejection } from "../support/make-client.js";
import { code, fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(async () => {
  await server.admin.flushall();
  await server.admin.config("RESETSTAT");
});
after(() => server.stop());

function rejected(outcomes: readonly PromiseSettledResult<unknown>[]): number {
  return outcomes.filter(({ status }) => status === "rejected").length;
}

/** Measures the same with ioredis' own timeout, for comparison. */
async function rejectedByIoredis(t: TestContext, commandTimeout: number, run: (redis: Redis) => Promise<unknown>[]) {
  const redis = new Redis({ port: server.port, commandTimeout });
  try {
    await eventually(() => redis.ping().then(() => true)); // on a loaded machine the first PING can time out, too
    const count = rejected(await Promise.allSettled(run(redis)));
    t.diagnostic(`ioredis with commandTimeout ${commandTimeout}: ${count} rejected`);
  } finally {
    redis.disconnect();
  }
}

test("a thread blocked for 3 s does not reject commands that were answered meanwhile: 0 of 200, with a deadline of 1 s", async (t) => {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("blocked-tasks"),
    threads: { count: 1 },
    redis: { commandTimeoutMs: 1_000 },
  });
  assert.equal(await manager.run("repliesWhileBlocked", { count: 200, ms: 3_000 }), 0);
  await rejectedByIoredis(t, 200, (redis) => {
    const replies = Array.from({ length: 200 }, (_, i) => redis.set(`blocked:${i}`, "x"));
    void blockLater(600);
    return replies;
  });
});

test("0 of 20 replies of 20 MB, which take many polls to read, are rejected after a block past their deadline", async (t) => {
  await server.admin.set("large", Buffer.alloc(20_000_000, "x"));
  // The grace is one further deadline: a loaded machine must be able to read 80 MB within it.
  const clients = await Promise.all(
    Array.from({ length: 4 }, () => openClient(t, server, { redis: { commandTimeoutMs: 4_000 } })),
  );
  const outcomes: PromiseSettledResult<Buffer | null>[] = [];
  for (let round = 0; round < 5; round++) {
    const replies = clients.map(({ redis }) => redis.getBuffer("large"));
    void blockLater(4_100);
    outcomes.push(...(await Promise.allSettled(replies)));
  }
  assert.equal(outcomes.length, 20);
  assert.equal(rejected(outcomes), 0);
  await rejectedByIoredis(t, 200, (redis) => {
    void blockLater(300);
    return [redis.getBuffer("large")];
  });
});

test("a frozen server: every command is rejected soon after its deadline", async (t) => {
  const frozen = await startRedis();
  t.after(() => frozen.stop());
  const client = makeClient(t, server, { port: frozen.port, redis: { commandTimeoutMs: 500 } });
  await client.connect();
  frozen.freeze();
  const startedAt = performance.now();
  const took = async (command: Promise<unknown>): Promise<number> => {
    assert.ok(code("COMMAND_TIMEOUT")(await rejection(command)));
    return performance.now() - startedAt;
  };
  const all = await Promise.all(Array.from({ length: 200 }, (_, i) => took(client.redis.get(`k:${i}`))));
  t.diagnostic(`deadline 500 ms: rejected after ${Math.round(Math.min(...all))} to ${Math.round(Math.max(...all))} ms`);
  assert.ok(Math.min(...all) >= 499);
  assert.ok(Math.max(...all) < 500 + 250 + 1_000, "the promise, and a second for a loaded machine");
  await client.close(100);
});

test("a connect blocked at any point of its handshake succeeds at the first attempt", async (t) => {
  for (const point of ["dialled", "connect", "ready"]) {
    const client = makeClient(t, server, { redis: { connectTimeoutMs: 500 } });
    let attempts = 0;
    client.redis.on("connect", () => attempts++);
    if (point !== "dialled") client.redis.once(point, () => void blockLater(800));
    const connected = client.connect();
    if (point === "dialled") void blockLater(800);
    await connected;
    assert.equal(attempts, 1, point);
  }
});

test("a loop blocked past the retry deadline does not take the next attempt's time", async (t) => {
  const retry = { deadlineMs: 1_000, baseDelayMs: 200, maxDelayMs: 200 }; // looking for TLS takes up to 300 ms of it
  let failures = 0;
  const warn = (): void => {
    // The first attempt has failed, and the pause before the second one is blocked.
    if (failures++ === 0) void blockLater(1_500);
  };
  const client = makeClient(t, server, { retry, logger: { ...silent, warn } });
  client.redis.once("connect", () => client.redis.stream.destroy());
  await client.connect();
  assert.equal(failures, 1);
});

test("an idle check, a heartbeat and a QUIT whose answers wait in the socket of a blocked thread cost no connection", async (t) => {
  const client = await openClient(t, server, { redis: { commandTimeoutMs: 200, heartbeatMs: 50 } });
  const id = await client.redis.client("ID");
  for (let i = 0; i < 2; i++) {
    const checked = client.check();
    await blockLater(500);
    assert.equal(await checked, true);
    // Long enough for a heartbeat, which is blocked as well.
    await new Promise((resolve) => setTimeout(resolve, 60));
    await blockLater(500);
  }
  assert.equal(await client.redis.client("ID"), id);
  const written = Array.from({ length: 50 }, (_, i) => client.redis.set(`last:${i}`, "x"));
  const closed = client.close(200);
  void blockLater(500);
  assert.deepEqual(new Set(await Promise.all(written)), new Set(["OK"]));
  await closed;
  assert.match(await server.admin.info("commandstats"), /cmdstat_quit:calls=1,/);
});

test("in a thread: a first connect and the idle checks of its clients survive a block of more than twice the time limit", async (t) => {
  const failures: string[] = [];
  const note = (message: string): void => void failures.push(message);
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("blocked-tasks"),
    threads: { count: 1 },
    redis: { connectTimeoutMs: 500, commandTimeoutMs: 500, idleCheckMs: 1 },
    logger: { ...silent, warn: note, error: note },
  });
  assert.equal(await manager.run("connectWhileBlocked", 1_200), "PONG");
  const { before: ids, after: idsAfter } = await manager.run("checkWhileBlocked", 1_200);
  assert.deepEqual(idsAfter, ids);
  assert.equal(manager.stats().threads[0]!.reconnects, 0);
  assert.deepEqual(failures, []);
});
