import type { SharedClient } from "../clients/shared-client.js";
import type { ShutdownConfig } from "../config/options.js";
import { TaskAbortedError, type Outcome } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { UNREAD_MS, monotonic } from "../core/clock.js";
import { sleep, waitAtMost, within } from "../core/waiting.js";
import type { Dispatcher } from "./dispatch/dispatcher.js";
import type { Threads } from "./threads/threads.js";

export interface ShutdownReport {
  /** What `shutdown` was called with, or the signal's name. */
  readonly reason: string;
  readonly durationMs: number;
  /** Tasks that were accepted and open when it began. */
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
  /** The main thread's. */
  readonly clients: readonly SharedClient[];
  readonly logger: Logger;
  readonly closeLogger: () => Promise<void>;
  /** From here on no task is taken. */
  readonly refuse: () => void;
  /** What tasks are still taken for, within `drainMs`. */
  readonly until?: PromiseLike<unknown> | undefined;
}

/** A server that answers has answered QUIT long before; one that does not is not waited for twice. */
const LAST_CLOSE_MS = 200;

/**
 * Refuse, drain, close: running tasks finish with Redis still there, then everything is closed in the reverse order of
 * its opening. Every step is run, whatever became of the one before. Over after lameDuckMs + drainMs + closeMs + 500 ms.
 */
export async function shutDown(reason: string, config: ShutdownConfig, parts: ShutdownParts): Promise<ShutdownReport> {
  const { dispatcher, threads, clients, logger, closeLogger, refuse, until } = parts;
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
  const outcomes = open.map((thread) => ({
    threadId: thread.threadId,
    outcome: thread.state === "closed" ? ("graceful" as const) : ("forced" as const),
    durationMs: Math.round(thread.closeMs ?? config.closeMs),
  }));
  // Whatever a thread that did not answer still does, it is over: the main thread's clients need not wait for its end.
  const ended = step(() => threads.destroy());
  const clientsMs = lastMs();
  // At once: what one of them waits for its server must not be what the next one lacks.
  await Promise.all(clients.map((client) => step(() => client.close(clientsMs))));
  await ended;

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

function abortedAfter(drainMs: number, outcome: Outcome, cause: unknown): TaskAbortedError {
  const what = outcome === "not-sent" ? "started" : "ended";
  return new TaskAbortedError(`the shutdown could not wait for this task: it had not ${what} within ${drainMs} ms`, {
    outcome,
    cause,
  });
}
