import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type * as Tasks from "../fixtures/unreadable-tasks.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { makeUnreadable, UNREADABLE } from "../support/unreadable.js";

const TASKS = 10_000;
/** Few, because each replacement comes later than the one before. */
const DEATHS = 5;
const AT_ONCE = 100;
const WAIT_MS = 60_000;
const EXPECTED = ["NOT_CLONEABLE", "TASK_ABORTED", "THREAD_DIED"].map((name) => `REDTHREAD_${name}`);

let server: RedisServer;
before(async () => {
  makeUnreadable();
  server = await startRedis();
});
after(() => server.stop());

/** Pseudo-random numbers, the same in each run of the test. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ;) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    yield state / 2 ** 32;
  }
}

test("a thread gives back every place, whatever becomes of its tasks", { timeout: 180_000 }, async (t) => {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("unreadable-tasks"),
    threads: { count: 2, execArgv: ["--import", fixture("unreadable-link").href] },
  });
  await manager.ready();
  const random = numbers(7);
  const next = (below: number): number => Math.floor(random.next().value * below);
  const aborting = (): Promise<unknown> => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(), next(5));
    return manager.run("untilAborted", undefined, { signal: stop.signal });
  };
  const kinds: (() => Promise<unknown>)[] = [
    () => manager.run("echo", next(100)),
    () => manager.run("echo", { value: next(2) === 0 ? UNREADABLE : "readable" }),
    () => manager.run("echo", new Map([["value", UNREADABLE]])),
    () => manager.run("echo", { onDone: () => {} }),
    () => manager.run("unreadableResult", "ran"),
    () => manager.run("unreadableTogether"),
    () => manager.run("uncloneable"),
    aborting,
  ];
  const deaths = new Set(Array.from({ length: DEATHS }, () => next(TASKS)));
  const outcomes = new Map<string, number>();
  let taken = 0;
  const caller = async (): Promise<void> => {
    while (taken < TASKS) {
      const isDying = deaths.has(taken++);
      const run = isDying ? manager.run("exit") : kinds[next(kinds.length)]!();
      const outcome = await run.then(
        () => "done",
        ({ code, message }: Error & { code?: string }) => code ?? message,
      );
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
  };
  const all = Promise.all(Array.from({ length: AT_ONCE }, caller));
  await eventually(() => all.then(() => true), 2 * WAIT_MS, "every task settles");
  assert.deepEqual([...outcomes.keys()].toSorted(), [...EXPECTED, "done"].toSorted());
  await eventually(() => manager.stats().threads.every(({ running }) => running === 0), WAIT_MS, "no task runs");
  assert.equal(await manager.run("echo", "good"), "good");
  const { tasks, threads } = await eventually(() => manager.shutdown({ drainMs: WAIT_MS }), WAIT_MS / 2, "shut down");
  assert.equal(tasks.abandoned, 0);
  assert.ok(threads.every(({ outcome }) => outcome === "graceful"));
});
