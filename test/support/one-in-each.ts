import type { ConnectionManager } from "../../src/index.js";
import { eventually } from "./gate.js";
import type { RedisServer } from "./redis-server.js";

export interface Keys {
  /** Counts the tasks that have begun. */
  readonly started: string;
  /** Set to let the tasks end. */
  readonly until: string;
}

let attempts = 0;

/**
 * A waiting task in each of the manager's threads. Tasks are dealt out one by one, but on a loaded machine a thread
 * that is slow to read loses its task to another thread: then it tries again.
 */
export async function oneInEach(
  manager: Pick<ConnectionManager, "stats">,
  server: RedisServer,
  run: (keys: Keys) => Promise<unknown>,
): Promise<{ outcomes: Promise<PromiseSettledResult<unknown>[]>; until: string }> {
  for (;;) {
    const attempt = ++attempts;
    const keys = { started: `started:${attempt}`, until: `until:${attempt}` };
    const outcomes = Promise.allSettled(manager.stats().threads.map(() => run(keys)));
    const { length } = manager.stats().threads;
    await eventually(async () => Number(await server.admin.get(keys.started)) === length);
    if (manager.stats().threads.every(({ running }) => running === 1)) return { outcomes, until: keys.until };
    await server.admin.set(keys.until, 1);
    await outcomes;
  }
}

/** Runs tasks until each of the manager's threads has done one, however they are dealt out. */
export async function untilEachHasRun(
  manager: Pick<ConnectionManager, "stats">,
  run: () => Promise<unknown>,
): Promise<void> {
  const done = (): number[] => manager.stats().threads.map((thread) => thread.done);
  const before = done();
  while (done().some((count, i) => count === before[i])) await Promise.all(before.map(run));
}
