import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import type { ThreadDiedError } from "../../src/index.js";
import type * as Tasks from "../fixtures/dying-tasks.js";
import { aheadOfTime } from "../support/clock.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { silent } from "../support/silent.js";
import { oneInEach } from "../support/one-in-each.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const THREADS = 2;
/** One for each thread, the primary, the permit that is kept for the main thread, and one to lease. */
const MAX = THREADS + 3;
/** More than the rows of the ledger or the permits of the budget: a row or permit that a death kept would be missing. */
const DEATHS = 6;

let server: RedisServer;
let folder: string;
before(async () => {
  server = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "redthread-death-"));
});
beforeEach(() => server.admin.flushall());
after(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const DEATHS_BY: Record<Tasks.Way, (cause: NodeJS.ErrnoException) => void> = {
  exit: ({ message }) => assert.match(message, /exit.*3/),
  throwInTimer: ({ message }) => assert.equal(message, "out of a timer"),
  rejectUnheard: ({ message }) => assert.equal(message, "heard by nobody"),
  fillHeap: (cause) => assert.equal(cause.code, "ERR_WORKER_OUT_OF_MEMORY"),
};
const NAMES: Record<Tasks.Way, string> = {
  exit: "exits",
  throwInTimer: "throws in a timer",
  rejectUnheard: "leaves a rejection unheard",
  fillHeap: "fills its heap",
};

for (const [way, checkCause] of Object.entries(DEATHS_BY) as [Tasks.Way, (cause: Error) => void][]) {
  test(`a thread that ${NAMES[way]} costs only its own tasks, which get the reason, and leaves nothing behind`, async (t) => {
    const manager = manage<typeof Tasks>(t, server, {
      tasks: fixture("dying-tasks"),
      threads: { count: THREADS, resourceLimits: { maxOldGenerationSizeMb: 40 } },
      connections: { max: MAX },
    });
    await manager.ready();
    const advance = aheadOfTime(t);
    const ready = (): boolean =>
      manager.stats().threads.filter(({ state }) => state === "ready").length === THREADS &&
      manager.stats().connections.open === THREADS + 1;
    for (let death = 1; death <= DEATHS; death++) {
      // One beside the task that dies, one in the other thread. A thread that reads slowly loses its task to the other.
      const { outcomes, until } = await oneInEach(manager, server, (keys) => manager.run("wait", keys));
      advance(60_000); // as if the threads had served for long: after quick deaths replacements come later each time
      let dead = 0;
      await assert.rejects(manager.run("die", way), (error: Error & { threadId?: number }) => {
        assert.ok(code("THREAD_DIED")(error), String(error));
        checkCause(error.cause as Error);
        dead = error.threadId!;
        return true;
      });
      await server.admin.set(until, 1);
      const [lost, kept] = (await outcomes).toSorted((a) => (a.status === "rejected" ? -1 : 1));
      assert.ok(lost!.status === "rejected" && code("THREAD_DIED")(lost!.reason));
      checkCause((lost!.reason as { cause: Error }).cause);
      assert.ok(kept!.status === "fulfilled" && kept!.value !== dead);
      await eventually(ready, 15_000);
    }
    const held = manager.run("hold", { holding: "holding", until: "enough" });
    await eventually(async () => (await server.admin.get("holding")) !== null);
    await manager.subscribe("news", () => {});
    assert.equal((await server.clients()).length, MAX);
    await server.admin.set("enough", 1);
    await held;
  });
}

async function tasksFile(name: string, source: string): Promise<string> {
  const file = join(folder, name);
  await writeFile(file, source);
  return file;
}

test("a task that calls process.exit() rejects with the exit code, which the log has too", async (t) => {
  const lines: object[] = [];
  const error = (message: string, fields: object = {}): void => void lines.push({ message, ...fields });
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("dying-tasks"), logger: { ...silent, error } });
  await assert.rejects(manager.run("die", "exit"), (reason: ThreadDiedError & { threadId?: number }) => {
    const { threadId, exitCode } = reason;
    assert.deepEqual([code("THREAD_DIED")(reason), exitCode], [true, 3]);
    assert.deepEqual(lines, [{ message: "thread died", threadId, code: "THREAD_EXITED", exitCode, delayMs: 0 }]);
    return true;
  });
  // An exception ends the thread with a code, too, which says nothing.
  await assert.rejects(
    manager.run("die", "throwInTimer"),
    (reason) => code("THREAD_DIED")(reason) && (reason as ThreadDiedError).exitCode === undefined,
  );
});

test("threads that die soon after they are up are replaced later each time", async (t) => {
  const deaths: { delayMs: number }[] = [];
  const error = (message: string, fields: object = {}): void => {
    if (message === "thread died") deaths.push(fields as { delayMs: number });
  };
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("dying-tasks"),
    threads: { count: 1, startTimeoutMs: 60_000 },
    logger: { ...silent, error },
  });
  // Each once its thread is up: a thread that ends before that could not start, which is another case.
  for (let i = 0; i < 7; i++) await assert.rejects(manager.run("die", "exit"), code("THREAD_DIED"));
  assert.equal(deaths.length, 7);
  for (const [i, { delayMs }] of deaths.entries()) {
    const mostMs = i === 0 ? 0 : 100 * 2 ** i;
    assert.ok(delayMs >= mostMs / 2 && delayMs <= mostMs, `death ${i + 1}: replaced after ${delayMs} ms`);
  }
});

test("threads that die while they are set up are THREAD_START_FAILED, and not started again and again", async (t) => {
  const failures: unknown[] = [];
  const error = (message: string): void => {
    if (message === "thread could not start") failures.push(message);
  };
  const source = `
    setTimeout(() => process.exit(1), 50);
    export const setup = () => new Promise(() => {});
    export const echo = (x) => x;`;
  const manager = manage<{ echo(input: number): number }>(t, server, {
    tasks: await tasksFile("dies-in-setup.mjs", source),
    logger: { ...silent, error },
  });
  await assert.rejects(manager.run("echo", 1), code("THREAD_START_FAILED"));
  assert.equal(failures.length, THREADS);
  // Many times the delay after which one of them would be started again.
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.equal(failures.length, THREADS);
});
