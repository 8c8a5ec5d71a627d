import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { counted, ending, LIMITS, running, settled, shutsDownInTime } from "../support/ending.js";
import { eventually, gate } from "../support/gate.js";
import { serverPerTest } from "../support/make-client.js";
import { Program } from "../support/program.js";
import { startProxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";

// What Redis and the network can do to a shutdown. For threads and leases see shutdown-threads.test.ts.

const newServer = serverPerTest();
let server: RedisServer;
beforeEach(async () => {
  server = await newServer();
});

test("Redis was gone before: commands that wait for it reject, and the shutdown does not wait for it", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  await manager.subscribe("news", () => {});
  await server.kill();
  const outcomes = settled([1, 2, 3, 4].map(() => manager.run("work", "go")));
  await shutsDownInTime(manager);
  const { values, codes } = await outcomes;
  assert.deepEqual([values, new Set(codes)], [[], new Set(["TASK_ABORTED"])]);
  await server.start();
});

test("Redis was never there: attempts to connect are given up", async (t) => {
  await server.kill();
  const manager = ending(t, server);
  const connecting = settled([manager.getRedis(), manager.subscribe("news", () => {})]);
  const outcomes = settled([1, 2].map(() => manager.run("work", "go")));
  await eventually(() => running(manager) === 2, 15_000);
  await shutsDownInTime(manager);
  assert.deepEqual((await connecting).values, []);
  await outcomes;
  await server.start();
});

test("Redis is killed during the drain: every acknowledged write was counted once", async (t) => {
  const own = await newServer({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
  const manager = ending(t, own);
  await manager.ready();
  const finished = Array.from({ length: 50 }, () => manager.run("writeAndLeave", { key: "written", count: 1 }));
  await settled(finished);
  const outcomes = settled([1, 2, 3, 4].map(() => manager.run("write", { key: "written", until: "never" })));
  await counted(own, 4);
  const done = shutsDownInTime(manager);
  await own.kill();
  await done;
  const { values } = await outcomes;
  assert.deepEqual(values, []);
  await own.start();
  assert.ok(Number(await own.admin.get("written")) >= 50);
});

test("Redis is killed during the drain and comes back: its tasks finish", async (t) => {
  const manager = ending(t, server, { retry: { baseDelayMs: 5, maxDelayMs: 20 } });
  await manager.ready();
  const outcomes = settled([1, 2, 3, 4].map(() => manager.run("work", "go")));
  await counted(server, 4);
  const done = manager.shutdown({ drainMs: 30_000 });
  await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await server.admin.set("go", 1);
  const { tasks } = await done;
  const { values, codes } = await outcomes;
  // A GET that was cut off rejects. All other tasks went on.
  assert.ok(codes.every((code) => code === "REPLY_LOST"));
  assert.equal(values.length + codes.length, 4);
  assert.deepEqual(tasks, { finished: 4, abandoned: 0 });
});

test("Redis is frozen: tasks, QUIT and a subscriber take no more than their time", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  await manager.subscribe("news", () => {});
  const outcomes = settled([1, 2, 3, 4].map(() => manager.run("work", "go")));
  await counted(server, 4);
  server.freeze();
  await shutsDownInTime(manager);
  const { codes } = await outcomes;
  assert.deepEqual(
    codes,
    Array.from({ length: 4 }, () => "TASK_ABORTED"),
  );
  server.thaw();
});

test("Redis is frozen and no task runs: idle connections take no more than their time", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  await manager.subscribe("news", () => {});
  await settled([1, 2, 3, 4].map(() => manager.run("writeAndLeave", { key: "written", count: 1 })));
  server.freeze();
  await shutsDownInTime(manager);
  server.thaw();
});

test("behind a black hole, connected and connecting: the sockets are closed all the same", async (t) => {
  await using proxy = await startProxy(server.port);
  const manager = ending(t, server, { redis: { port: proxy.port } });
  await manager.ready();
  const outcomes = settled([1, 2].map(() => manager.run("work", "go")));
  await counted(server, 2);
  const { connections } = proxy;
  proxy.blackhole(true);
  const subscription = settled([manager.subscribe("news", () => {})]);
  await eventually(
    () => proxy.connections > connections,
    5_000,
    "the subscriber's connection is there, and gets no message",
  );
  await shutsDownInTime(manager);
  await Promise.all([outcomes, subscription]);
  proxy.blackhole(false);
  await eventually(() => proxy.connections === 0);
});

test("the breaker is open: the shutdown does not wait for the next probe", async (t) => {
  const manager = ending(t, server, { redis: { whenDown: "wait" } });
  await manager.ready();
  await server.kill();
  const outcomes = settled([1, 2, 3, 4].map(() => manager.run("work", "go")));
  await eventually(() => manager.stats().breaker.state !== "closed");
  await shutsDownInTime(manager);
  await outcomes;
  await server.start();
});

test("Redis is lost and nothing else keeps the process: it stays until the shutdown is over", async (t) => {
  const program = new Program(t, "leaving", { port: server.port });
  await program.hears("ready");
  await server.kill();
  assert.equal((await program.exit).code, 0, program.transcript);
  assert.equal(program.all("report").length, 1);
});

test("the primary is rotating, and the old one sends QUIT to a frozen Redis", async (t) => {
  const manager = ending(t, server, { primary: { ttlMs: 10, jitter: 0 } });
  await manager.use((redis) => redis.ping());
  const held = gate();
  const user = eventually(() => manager.stats().primary.ageMs > 10).then(() => manager.use(() => held.promise));
  await eventually(() => manager.stats().primary.rotations > 0, 5_000, "the old one waits only for its user");
  server.freeze();
  held.open();
  await user;
  await shutsDownInTime(manager, { drainMs: 0, closeMs: 200 });
  server.thaw();
});

test("the primary rotates again and again during the shutdown", async (t) => {
  const manager = ending(t, server, { primary: { ttlMs: 10, jitter: 0 } });
  await manager.ready();
  const useOn = async (): Promise<never> => {
    for (;;) await manager.use((redis) => redis.ping());
  };
  const users = settled([useOn(), useOn(), useOn(), useOn()]);
  await eventually(() => manager.stats().primary.rotations > 0);
  await shutsDownInTime(manager);
  assert.deepEqual((await users).values, []);
});

test("the provider of credentials hangs: no client connects, and the shutdown does not wait for it", async (t) => {
  let calls = 0;
  const credentials = (): Promise<never> => {
    calls++;
    return new Promise(() => {});
  };
  const manager = ending(t, server, { redis: { credentials } });
  const primary = settled([manager.getRedis()]);
  const outcomes = settled([1, 2].map(() => manager.run("work", "go")));
  await eventually(() => calls === 1 && running(manager) === 2, 15_000);
  await shutsDownInTime(manager);
  await Promise.all([outcomes, primary]);
});

test("writes that tasks did not await before they returned are on the server", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  const writing = { key: "written", count: 100 };
  const outcomes = settled(Array.from({ length: 200 }, () => manager.run("writeAndLeave", writing)));
  const done = shutsDownInTime(manager, { drainMs: 10_000, closeMs: 5_000 });
  assert.equal((await outcomes).values.length, 200);
  assert.deepEqual((await done).tasks, { finished: 200, abandoned: 0 });
  assert.equal(Number(await server.admin.get("written")), 200 * 100);
});

test("writes that tasks did not await reach a slow server, too, when the tasks beside them are aborted", async (t) => {
  await using proxy = await startProxy(server.port);
  const manager = ending(t, server, { redis: { port: proxy.port } });
  await manager.ready();
  const aborted = settled([1, 2].map(() => manager.run("work", "never")));
  await counted(server, 2);
  proxy.latencyMs = 50;
  const writing = { key: "written", count: 100 };
  const outcomes = settled(Array.from({ length: 20 }, () => manager.run("writeAndLeave", writing)));
  const done = shutsDownInTime(manager, { closeMs: 2_000 });
  assert.equal((await outcomes).values.length, 20);
  assert.deepEqual((await aborted).codes, ["TASK_ABORTED", "TASK_ABORTED"]);
  await done;
  assert.equal(Number(await server.admin.get("written")), 20 * 100);
});

test("a lame duck whose Redis dies ends in its time", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  const done = shutsDownInTime(manager, { lameDuckMs: 300 });
  await server.kill();
  const outcomes = settled([1, 2].map(() => manager.run("work", "go")));
  await done;
  await outcomes;
  await server.start();
});

test("two calls at once and one after it share one shutdown and its report", async (t) => {
  const manager = ending(t, server);
  await manager.ready();
  server.freeze();
  const [first, second] = await Promise.all([shutsDownInTime(manager), manager.shutdown({ drainMs: 60_000 })]);
  assert.equal(first, second);
  assert.equal(await manager.shutdown(), first);
  assert.ok(first.durationMs <= LIMITS.drainMs + LIMITS.closeMs + 500);
  server.thaw();
});
