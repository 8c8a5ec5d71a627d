import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { connect, disconnect } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { own } from "../support/own-client.js";
import { type RedisServer, startRedis } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

const USER = ["ACL", "SETUSER", "rotating", "on", "~*", "&*", "+@all"] as const;
const redis = { username: "rotating", password: "good", commandTimeoutMs: 30_000 };
const retry = { baseDelayMs: 10, maxDelayMs: 100 };

test("a good login that is refused for a while ends no client, and health reports it", async (t) => {
  await server.admin.call(...USER, ">good");
  const idle = await connect({ env: {}, redis: { port: server.port, ...redis }, retry });
  t.after(() => disconnect(idle));
  const lines: string[] = [];
  const note = (message: string, fields?: object): void => void lines.push(message + JSON.stringify(fields));
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("topology-tasks"),
    logger: { debug: note, info: note, warn: note, error: note },
    threads: { count: 1 },
    redis,
    retry,
  });
  await manager.ready();
  await manager.run("incr", "before");
  const heard: string[] = [];
  let gaps = 0;
  await manager.subscribe("news", (message) => heard.push(message), { onGap: () => gaps++ });
  await server.admin.call(...USER, "resetpass", ">other");
  await server.admin.call("CLIENT", "KILL", "USER", "rotating");
  const waiting = manager.run("incr", "meanwhile");
  const reasons = ["the primary client is connecting", "the subscriber client is connecting"];
  await eventually(() => {
    assert.deepEqual(manager.health(), { live: true, ready: false, reasons });
    return lines.filter((line) => line.includes("REDTHREAD_AUTH_FAILED")).length > 10;
  }, 20_000);
  await server.admin.call(...USER, ">good");
  assert.equal(await waiting, 1);
  await idle.ping();
  await eventually(() => gaps === 1, 20_000);
  await server.admin.publish("news", "again");
  await eventually(() => heard.includes("again"), 20_000);
  await eventually(() => manager.health().ready, 20_000);
});

test("a login that was never good is final", async (t) => {
  await server.admin.call(...USER, "resetpass", ">good");
  await assert.rejects(own(t, server, { redis: { ...redis, password: "never" }, retry }), code("AUTH_FAILED"));
});
