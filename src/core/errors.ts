/** Whether the work took effect: never reached Redis or a thread, may have, or was turned away by the receiver. */
export type Outcome = "not-sent" | "unknown" | "refused";

/** What an error carries beside its sentence: the numbers of the moment and, where a command or task is concerned, the outcome. */
export interface ErrorDetails {
  readonly cause?: unknown;
  readonly outcome?: Outcome;
  readonly [field: string]: unknown;
}

/**
 * Base of every error redthread throws on purpose. Branch on `code`, never on the message or on `instanceof`:
 * classes differ between realms and between two copies of a package, codes do not.
 */
export abstract class RedthreadError extends Error {
  abstract readonly code: `REDTHREAD_${string}`;
  declare readonly outcome?: Outcome;

  constructor(message: string, details: ErrorDetails = {}) {
    const { cause, ...fields } = details;
    super(message, cause === undefined ? undefined : { cause });
    Object.assign(this, fields);
  }

  override get name(): string {
    return this.constructor.name;
  }
}

/** Options or environment are wrong; `problems` names every one of them. Nothing was opened. */
export class ConfigInvalidError extends RedthreadError {
  override readonly code = "REDTHREAD_CONFIG_INVALID";
}
/** No connection within the retry deadline; `cause` is the last attempt's failure. */
export class ConnectFailedError extends RedthreadError {
  override readonly code = "REDTHREAD_CONNECT_FAILED";
}
/** The server refused the credentials; final at a first connect, save once with fresh ones where `redis.credentials` gives them. */
export class AuthFailedError extends RedthreadError {
  override readonly code = "REDTHREAD_AUTH_FAILED";
}
/** The command was not carried out, because it was not sent, or a node of a Cluster would not have it: repeating it is safe. */
export class NotSentError extends RedthreadError {
  override readonly code = "REDTHREAD_NOT_SENT";
}
/** The connection went after the command was written: it may or may not have run. */
export class ReplyLostError extends RedthreadError {
  override readonly code = "REDTHREAD_REPLY_LOST";
}
/**
 * Nothing came from the server for `silentMs`, `ahead` other commands are answered first, only a part of the reply has come, or the
 * thread's loop was blocked for `blockedMs` at the deadline and something else came after it.
 */
export type TimeoutReason = "server-silent" | "queued" | "reply-arriving" | "loop-blocked";

/** The command was written and no reply came by its deadline: it may still run. */
export class CommandTimeoutError extends RedthreadError {
  override readonly code = "REDTHREAD_COMMAND_TIMEOUT";
  /** Undefined, as the numbers, where the helper of `redthread/sync` gave no answer. */
  declare readonly reason?: TimeoutReason;
  declare readonly silentMs?: number;
  declare readonly ahead?: number;
  declare readonly blockedMs?: number;
}
/** The command would spoil a client that others share; use `withDedicated`. */
export class NeedsDedicatedError extends RedthreadError {
  override readonly code = "REDTHREAD_NEEDS_DEDICATED";
}
/** The command cannot be run by any client of redthread: `reason` says why, or what to do instead. Nothing was written. */
export class CommandRefusedError extends RedthreadError {
  override readonly code = "REDTHREAD_COMMAND_REFUSED";
}
/** The command has no one node of the Cluster to go to, or would go to several. */
export class NotInClusterError extends RedthreadError {
  override readonly code = "REDTHREAD_NOT_IN_CLUSTER";
}
/** No dedicated client within `acquireTimeoutMs`; `phase` says where the time went. */
export class AcquireTimeoutError extends RedthreadError {
  override readonly code = "REDTHREAD_ACQUIRE_TIMEOUT";
}
/** Redis is away and one prober tries for the whole process; `nextProbeMs` says when next. */
export class CircuitOpenError extends RedthreadError {
  override readonly code = "REDTHREAD_CIRCUIT_OPEN";
}
/** The server closed the connection before it said a word, as one does that has reached its maxclients. */
export class MaxclientsSuspectedError extends RedthreadError {
  override readonly code = "REDTHREAD_MAXCLIENTS_SUSPECTED";
}
/** The manager, or this thread, no longer takes work. */
export class ShuttingDownError extends RedthreadError {
  override readonly code = "REDTHREAD_SHUTTING_DOWN";
}
/** The tasks module exports no such task; `tasks` lists those it does. */
export class TaskNotFoundError extends RedthreadError {
  override readonly code = "REDTHREAD_TASK_NOT_FOUND";
}
/** The task did not settle within its `timeoutMs`, counted from the call to `run`. */
export class TaskTimeoutError extends RedthreadError {
  override readonly code = "REDTHREAD_TASK_TIMEOUT";
}
/** The task was given up: by its caller's signal, or by the shutdown. */
export class TaskAbortedError extends RedthreadError {
  override readonly code = "REDTHREAD_TASK_ABORTED";
}
/** `queue.max` tasks are waiting already. */
export class QueueFullError extends RedthreadError {
  override readonly code = "REDTHREAD_QUEUE_FULL";
}
/** A task's input, result or context, or a synchronous call's argument or reply, cannot cross threads; `path` names it. */
export class NotCloneableError extends RedthreadError {
  override readonly code = "REDTHREAD_NOT_CLONEABLE";
}
/** A thread could not start: tasks module, `setup`, or silence for `startTimeoutMs`. */
export class ThreadStartFailedError extends RedthreadError {
  override readonly code = "REDTHREAD_THREAD_START_FAILED";
  /** What `process.exit()` was given, where that ended the thread. */
  declare readonly exitCode?: number;
}
/** The thread ended under the task; `cause` says why. */
export class ThreadDiedError extends RedthreadError {
  override readonly code = "REDTHREAD_THREAD_DIED";
  /** What `process.exit()` was given, where that ended the thread. */
  declare readonly exitCode?: number;
}

/** Every class, for rebuilding an error that crossed threads. */
export const ERROR_CLASSES = [
  ConfigInvalidError,
  ConnectFailedError,
  AuthFailedError,
  NotSentError,
  ReplyLostError,
  CommandTimeoutError,
  NeedsDedicatedError,
  CommandRefusedError,
  NotInClusterError,
  AcquireTimeoutError,
  CircuitOpenError,
  MaxclientsSuspectedError,
  ShuttingDownError,
  TaskNotFoundError,
  TaskTimeoutError,
  TaskAbortedError,
  QueueFullError,
  NotCloneableError,
  ThreadStartFailedError,
  ThreadDiedError,
] as const;
