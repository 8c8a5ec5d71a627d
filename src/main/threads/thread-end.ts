import { ThreadDiedError, ThreadStartFailedError } from "../../core/errors.js";
import { errorCode, type LogFields } from "../../core/log.js";
import type { Thread } from "./thread.js";

/** The end by `process.exit()`; piscina has its code only in the text of an error. */
export class ThreadExit extends Error {
  readonly code = "THREAD_EXITED";
  readonly exitCode: number;

  constructor(exitCode: number) {
    super(`it exited with code ${exitCode}`);
    this.exitCode = exitCode;
  }
}

function exitCodeOf(reason: unknown): { readonly exitCode?: number } {
  return reason instanceof ThreadExit ? { exitCode: reason.exitCode } : {};
}

/** For the log. */
export function endOf({ threadId }: Thread, reason: unknown): LogFields {
  return { threadId, code: errorCode(reason), ...exitCodeOf(reason) };
}

export function startFailed(cause: unknown): ThreadStartFailedError {
  const { message = String(cause), permission } = Object(cause) as { message?: string; permission?: string };
  const why = permission === "WorkerThreads" ? "Node's permission model asks for --allow-worker" : message;
  return new ThreadStartFailedError(`a thread could not start: ${why}`, { cause, ...exitCodeOf(cause) });
}

export function threadDied(thread: Thread, reason: unknown): ThreadDiedError {
  const why = reason instanceof Error ? reason.message : "it was closed";
  return new ThreadDiedError(`thread ${thread.threadId} ended under the task: ${why}`, {
    outcome: "unknown",
    threadId: thread.threadId,
    ...exitCodeOf(reason),
    cause: reason,
  });
}
