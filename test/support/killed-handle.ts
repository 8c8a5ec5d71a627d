import type { TestContext } from "node:test";
import { connect, disconnect } from "../../src/index.js";
import type { RedisHandle } from "../../src/commands/ioredis.js";
import { fixture, manage } from "./manage.js";
import { beginLeakCheck, leakCheck } from "./leak-check.js";
import type { RedisServer } from "./redis-server.js";

/** The two kinds of handles on the main thread that other libraries may get. */
export const SOURCES = ["manager.getRedis()", "connect()"] as const;

/** A handle from before the server killed every connection; its client has replaced its own connection since. */
export async function killedHandle(
  t: TestContext,
  server: RedisServer,
  source: (typeof SOURCES)[number],
): Promise<RedisHandle> {
  const redis = source === "connect()" ? await connected(t, server) : await managers(t, server);
  const before = new Set((await server.clients()).map(({ id }) => id));
  await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await server.waitForClients((clients) => clients.length > 0 && clients.every(({ id }) => !before.has(id)));
  return redis;
}

async function connected(t: TestContext, server: RedisServer): Promise<RedisHandle> {
  beginLeakCheck(t);
  const redis = await connect({ env: {}, redis: { port: server.port } });
  t.after(() => disconnect(redis));
  leakCheck(t, server);
  return redis;
}

async function managers(t: TestContext, server: RedisServer): Promise<RedisHandle> {
  const manager = manage(t, server, { tasks: fixture("tasks"), threads: { count: 1 } });
  return manager.getRedis();
}
