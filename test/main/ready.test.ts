import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis } from "../support/redis-server.js";

test("ready() resolves although the primary client rotates while the threads start", async (t) => {
  const own = await startRedis();
  const manager = manage(t, own, { tasks: fixture("slow-setup"), primary: { ttlMs: 100 } });
  t.after(() => own.stop());
  const ready = manager.ready();
  ready.catch(() => {}); // awaited below
  const first = await manager.getRedis();
  await eventually(async () => (await manager.getRedis()) && first.status === "end", 15_000, "the first one is closed");
  await own.admin.set("set up", 1);
  await ready;
});

test("ready() that waits in an outage rejects SHUTTING_DOWN when the shutdown comes", async (t) => {
  const own = await startRedis();
  const manager = manage(t, own, { tasks: fixture("tasks") });
  t.after(() => own.stop());
  await manager.ready();
  await own.kill();
  await eventually(() => manager.stats().primary.state === "connecting");
  const refused = assert.rejects(manager.ready(), code("SHUTTING_DOWN"));
  await new Promise((resolve) => setTimeout(resolve, 100)); // by now it waits for the connection
  await manager.shutdown();
  await refused;
  await own.start();
});

test("after ready() was rejected health() is not ready until Redis is back", async (t) => {
  const own = await startRedis();
  const manager = manage(t, own, { tasks: fixture("tasks"), retry: { deadlineMs: 300 } });
  t.after(() => own.stop());
  await own.kill();
  await assert.rejects(manager.ready(), code("CONNECT_FAILED"));
  const { ready, reasons } = manager.health();
  assert.equal(ready, false);
  assert.ok(reasons.includes("ready() was rejected: REDTHREAD_CONNECT_FAILED"), String(reasons));
  await new Promise((resolve) => setTimeout(resolve, 1_500)); // past the deadline of another attempt
  assert.equal(manager.health().ready, false);
  await own.start();
  await eventually(() => manager.health().ready, 20_000, "it is ready without a call");
  assert.equal(await (await manager.getRedis()).ping(), "PONG");
});

test("after the server rejected the login health() is not ready until a client connects", async (t) => {
  const own = await startRedis();
  const manager = manage(t, own, { tasks: fixture("tasks"), redis: { password: "later" } });
  t.after(() => own.stop());
  await own.admin.call("ACL", "SETUSER", "default", "resetpass", ">now");
  await assert.rejects(manager.ready(), code("AUTH_FAILED"));
  assert.ok(manager.health().reasons.includes("ready() was rejected: REDTHREAD_AUTH_FAILED"));
  await own.admin.call("ACL", "SETUSER", "default", "resetpass", ">later");
  await manager.getRedis();
  await eventually(() => manager.health().ready, 15_000);
});
