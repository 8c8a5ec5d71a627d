import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import type { ConnectionManager, ManagerOptions, ShutdownReport } from "../../src/index.js";
import type * as EndingTasks from "../fixtures/ending-tasks.js";
import { eventually } from "./gate.js";
import { fixture, manage } from "./manage.js";
import type { RedisServer } from "./redis-server.js";

export type Ending = ConnectionManager<typeof EndingTasks>;

/** The limits of a shutdown: so short that a test can tell whether something hangs. */
export const LIMITS = { lameDuckMs: 0, drainMs: 300, closeMs: 600 };

/** Longer, for tests about each thread: a loaded machine needs the time. */
export const UNHURRIED = { closeMs: 4_000 };

/** At loglevel verbose, a server writes this when a connection ends without QUIT. */
export const ABRUPT = /Reading from client|Error writing to client|Client closed connection(?!.*name=observer)/;

export function ending(t: TestContext, server: RedisServer, options: Partial<ManagerOptions> = {}): Ending {
  return manage<typeof EndingTasks>(t, server, {
    tasks: fixture("ending-tasks"),
    ...options,
    threads: { count: 2, startTimeoutMs: 30_000, ...options.threads },
  });
}

/** The promise: lameDuckMs + drainMs + closeMs + 500 ms, whatever happens meanwhile. */
export async function shutsDownInTime(manager: Ending, limits: Partial<typeof LIMITS> = {}): Promise<ShutdownReport> {
  const { lameDuckMs, drainMs, closeMs } = { ...LIMITS, ...limits };
  const startedAt = performance.now();
  const done = manager.shutdown({ lameDuckMs, drainMs, closeMs });
  const report = await eventually(() => done, 30_000, "the shutdown is over");
  const ms = performance.now() - startedAt;
  assert.ok(ms <= lameDuckMs + drainMs + closeMs + 500, `the shutdown took ${Math.round(ms)} ms`);
  await assert.rejects(manager.run("echo", 0), { code: "REDTHREAD_SHUTTING_DOWN" });
  return report;
}

interface Outcomes {
  readonly values: unknown[];
  /** Without the prefix of all codes of the library. */
  readonly codes: string[];
}

/**
 * Counts how the accepted tasks end: each finishes, or is rejected with an error of the library. It listens from this
 * turn on.
 */
export async function settled(accepted: readonly Promise<unknown>[]): Promise<Outcomes> {
  const all = Promise.allSettled(accepted);
  const outcomes = await eventually(() => all, 30_000, "everything that was accepted settles");
  const values: unknown[] = [];
  const codes: string[] = [];
  for (const outcome of outcomes) {
    if (outcome.status === "fulfilled") values.push(outcome.value);
    else codes.push(codeOf(outcome.reason));
  }
  return { values, codes };
}

function codeOf(reason: unknown): string {
  const { code } = (reason ?? {}) as { code?: string };
  assert.ok(code && code.startsWith("REDTHREAD_"), `rejected with ${String(reason)}`);
  return code.slice("REDTHREAD_".length);
}

/** Tasks count themselves in Redis when they run. */
export function counted(server: RedisServer, count: number, key = "started"): Promise<boolean> {
  return eventually(async () => Number(await server.admin.get(key)) === count, 15_000, `${count} tasks in ${key}`);
}

/** Tasks that were sent to a thread. */
export function running(manager: Ending): number {
  return manager.stats().threads.reduce((sum, thread) => sum + thread.running, 0);
}
