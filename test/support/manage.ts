import type { TestContext } from "node:test";
import { ConnectionManager, type ManagerOptions } from "../../src/index.js";
import { eventually } from "./gate.js";
import { beginLeakCheck, leakCheck } from "./leak-check.js";
import type { RedisServer } from "./redis-server.js";
import { silent } from "./silent.js";

/** For `assert.rejects`: an error with this code of redthread's. */
export const code =
  (expected: string) =>
  (error: unknown): boolean =>
    (error as { code?: string } | null)?.code === `REDTHREAD_${expected}`;

export function fixture(name: string): URL {
  return new URL(`../fixtures/${name}.js`, import.meta.url);
}

/** A manager on this server, independent of the environment. It is shut down after the test, and must leave nothing. */
export function manage<Tasks extends object>(
  t: TestContext,
  server: RedisServer,
  options: ManagerOptions,
): ConnectionManager<Tasks> {
  beginLeakCheck(t);
  const manager = new ConnectionManager<Tasks>({
    env: {},
    logger: silent,
    ...options,
    redis: { port: server.port, ...options.redis },
    threads: { count: 2, startTimeoutMs: 30_000, ...options.threads }, // other test files use the CPU, too
  });
  t.after(() => eventually(() => manager.shutdown({ drainMs: 1_000 }), 30_000, "the manager is shut down"));
  leakCheck(t, server);
  return manager;
}
