import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/near-face-tasks.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";

const KEY = "near:key";
const old = await startRedis();
const next = await startRedis();
const proxy = await startProxy(old.port);
after(async () => {
  proxy.close();
  await Promise.all([old.stop(), next.stop()]);
});

test("a thread that is still connected to another server than the keeper neither gets nor fills what the others share", async (t) => {
  await Promise.all([old.admin.set(KEY, "old"), next.admin.set(KEY, "next")]);
  const manager: ConnectionManager<typeof Tasks> = manage<typeof Tasks>(t, next, {
    tasks: fixture("near-face-tasks"),
    redis: { port: proxy.port },
    threads: { count: 1 },
    nearCache: { prefixes: ["near:"] },
  });
  await manager.ready();
  assert.equal(await manager.run("readUntilHit", KEY), "old");
  assert.equal(await manager.near.get(KEY), "old");
  // The thread stays where it is. The main thread is led to the next server, and the keeper follows.
  proxy.targetPort = next.port;
  for (const { id, name } of await old.clients())
    if (/primary|keeper/.test(name)) await old.admin.call("CLIENT", "KILL", "ID", id);
  const isServed = async (): Promise<boolean> => {
    await manager.near.get(KEY).catch(() => undefined); // its connection is gone
    return manager.near.peek(KEY) === "next";
  };
  await eventually(isServed, 20_000, "the main thread is served from the next server");
  for (let i = 0; i < 50; i++) {
    assert.equal(await manager.run("get", KEY), "old", "the thread reads from its own server");
    assert.equal(await manager.run("peek", KEY), undefined);
    assert.equal(await manager.near.get(KEY), "next");
    await next.admin.set(KEY, "next"); // an empty place, which the thread could fill
  }
});
