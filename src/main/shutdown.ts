import { constants } from "node:os";
import type { SharedClient } from "../clients/shared-client.js";
import type { ShutdownConfig } from "../config/options.js";
import { TaskAbortedError, type Outcome } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { UNREAD_MS, monotonic } from "../core/clock.js";
import { sleep, waitAtMost, within } from "../core/waiting.js";
import type { Dispatcher } from "./dispatch/dispatcher.js";
import type { Locks } from "./locks.js";
import type { Thread } from "./threads/thread.js";
import { Threads } from "./threads/threads.js";

export interface ShutdownReport {
  /** The reason that `shutdown` was given, or the signal's name. */
  readonly reason: string;
  readonly durationMs: number;
  /** What became of the accepted tasks that were open when it began. */
  readonly tasks: { readonly finished: number; readonly abandoned: number };
  readonly threads: readonly {
    readonly threadId: number;
    readonly outcome: "graceful" | "forced";
    readonly durationMs: number;
  }[];
}

export interface ShutdownParts {
  readonly dispatcher: Dispatcher;
  readonly threads: Threads;
  /** The main thread's clients. */
  readonly clients: readonly SharedClient[];
  readonly locks: Locks;
  readonly logger: Logger;
  readonly closeLogger: () => Promise<void>;
  /** No task is taken from this call on. */
  readonly refuse: () => void;
  /** Tasks are taken until this settles, within `drainMs`. */
  readonly until?: PromiseLike<unknown> | undefined;
}

/** The least time for the last steps, also after `closeMs`: a server that still answers has answered QUIT by then. */
const LAST_CLOSE_MS = 200;

/**
 * Closes everything in the reverse order of its opening. Every step runs, whatever became of the step before. It takes at
 * most lameDuckMs + drainMs + closeMs + 500 ms:
 * 1. For `lameDuckMs` everything goes on. Then no task is accepted.
 * 2. For `drainMs` the accepted tasks may finish; Redis is still there. The tasks that wait are then rejected.
 * 3. `threads.close()`: each thread aborts what still runs, runs its teardown, closes its clients and answers, in `closeMs`.
 * 4. `threads.destroy()` terminates every thread that has not answered: `worker.terminate()` ends an endless loop, too.
 *    Meanwhile the main thread's clients are closed.
 * 5. The log is written to its end.
 */
export async function shutDown(reason: string, config: ShutdownConfig, parts: ShutdownParts): Promise<ShutdownReport> {
  const { dispatcher, threads, clients, locks, logger, closeLogger, refuse, until } = parts;
  const startedAt = monotonic();
  const failures: unknown[] = [];
  const step = async (work: () => unknown): Promise<void> => {
    try {
      await work();
    } catch (error) {
      failures.push(error);
      logger.error("a step of the shutdown failed", { code: errorCode(error) });
    }
  };
  logger.info("shutting down", { reason, ...config });

  if (config.lameDuckMs > 0) await step(() => sleep(config.lameDuckMs));
  const drainBy = monotonic() + config.drainMs;
  if (until) await waitAtMost(config.drainMs, until, UNREAD_MS);
  refuse();
  const before = dispatcher.tally;
  const isDrained = await waitAtMost(Math.max(drainBy - monotonic(), 0), dispatcher.drained(), UNREAD_MS);
  if (!isDrained) dispatcher.giveUp((outcome, cause) => abortedAfter(config.drainMs, outcome, cause));

  const closeBy = monotonic() + config.closeMs;
  const lastMs = (): number => Math.max(closeBy - monotonic(), LAST_CLOSE_MS);
  const graceMs = Math.min(config.cancelGraceMs, config.closeMs / 2);
  const open = [...threads];
  await step(() => threads.close(config.closeMs, graceMs));
  const outcomes = open.map((thread) => outcomeOf(thread, config.closeMs));
  // A thread that did not answer does nothing more that counts: the main thread's clients need not wait for its end.
  const ended = step(() => threads.destroy());
  // With half of the time: a Redis that does not answer must not take it from the clients.
  await step(() => locks.release(lastMs() / 2));
  const clientsMs = lastMs();
  // All at once, because a wait for one server must not use up the time of the next client.
  const closing = clients.map((client) => step(() => client.close(clientsMs)));
  // The keeper releases the locks of threads that were ended.
  await Promise.all([...closing, ended.then(() => step(() => locks.close(clientsMs)))]);

  const after = dispatcher.tally;
  const report: ShutdownReport = {
    reason,
    durationMs: Math.round(monotonic() - startedAt),
    tasks: {
      finished: after.done + after.failed - before.done - before.failed,
      abandoned: after.abandoned - before.abandoned,
    },
    threads: outcomes,
  };
  logger.info("shut down", { ...report });
  const written = within(closeLogger(), lastMs(), () => new Error("the log was not written in time"), UNREAD_MS);
  await Promise.all([step(() => written), threads.exited(lastMs())]);
  if (failures.length > 0) throw new AggregateError(failures, "the shutdown is done, but steps of it failed");
  return report;
}

function outcomeOf({ threadId, state, closeMs }: Thread, limitMs: number): ShutdownReport["threads"][number] {
  const outcome = state === "closed" ? "graceful" : "forced";
  return { threadId, outcome, durationMs: Math.round(closeMs ?? limitMs) };
}

function abortedAfter(drainMs: number, outcome: Outcome, cause: unknown): TaskAbortedError {
  const what = outcome === "not-sent" ? "started" : "ended";
  return new TaskAbortedError(`the shutdown could not wait for this task: it had not ${what} within ${drainMs} ms`, {
    outcome,
    cause,
  });
}

const SIGNALS = ["SIGTERM", "SIGINT"] as const;
type Signal = (typeof SIGNALS)[number];
type StartShutdown = (reason: string) => Promise<ShutdownReport>;

/** The shutdowns of this process's managers that handle signals. */
const shutdowns = new Set<StartShutdown>();
/** The first signal, and the exit code of each manager. */
let ending: { readonly signal: Signal; readonly codes: Promise<number>[] } | undefined;

/**
 * Shuts down on the first SIGTERM or SIGINT. The process ends when all managers that handle signals are done: with 0 when
 * everything ended by itself, with 1 when a thread was forced or a task abandoned. A second signal ends the process at
 * once. Returns a function that stops listening.
 */
export function handleSignals(start: StartShutdown): () => void {
  // A manager that is made after the signal would be lost with the process, and its accepted tasks with it.
  ending?.codes.push(exitCode(start(ending.signal)));
  if (shutdowns.size === 0) for (const signal of SIGNALS) process.on(signal, onSignal);
  shutdowns.add(start);
  return () => {
    // After a signal the listeners stay: without them Node's default kills the process in the middle of the shutdown.
    if (ending || !shutdowns.delete(start) || shutdowns.size > 0) return;
    for (const signal of SIGNALS) process.off(signal, onSignal);
  };
}

function onSignal(signal: Signal): void {
  if (ending) return killSelf(signal);
  ending = { signal, codes: [...shutdowns].map((start) => exitCode(start(signal))) };
  void end(ending.signal, ending.codes);
}

async function end(signal: Signal, codes: readonly Promise<number>[]): Promise<void> {
  let code = 0;
  // One by one, because more managers may join meanwhile.
  for (const one of codes) code = Math.max(code, await one);
  // Other code that awaits the shutdown has a turn first, and what it writes gets on its way.
  setImmediate(() => (Threads.areLeaving ? killSelf(signal) : process.exit(code)));
}

function exitCode(report: Promise<ShutdownReport>): Promise<number> {
  return report.then(
    ({ tasks, threads }) => (tasks.abandoned === 0 && threads.every(({ outcome }) => outcome === "graceful") ? 0 : 1),
    () => 1, // each failed step is in the log
  );
}

/** `process.exit()` would wait for a thread in a call that nothing can interrupt, as execSync(). A signal does not wait. */
function killSelf(signal: Signal): void {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  // Process 1 of a container is still here: the kernel lets no signal without a listener end it.
  process.exit(128 + constants.signals[signal]);
}
