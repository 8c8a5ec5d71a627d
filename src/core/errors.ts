// The room `core` imports no other room, and knows nothing of Redis connections or threads. Every room may import it:
// - errors.ts (thrown on purpose), failures.ts and replies.ts (what an error allows to do next), retry.ts;
// - clock.ts and waiting.ts (time and promises), memo.ts (caches), fifo.ts and array-map.ts (collections);
// - log.ts (levels, loggers, and what of an error may be logged), channels.ts (node:diagnostics_channel);
// - names.ts, plain.ts and packages.ts (what this process and its values are).

/** Whether the work took effect: it never reached Redis or a thread, it may have run, or its receiver rejected it. */
export type Outcome = "not-sent" | "unknown" | "refused";

/** What every error may carry beside its message. */
export interface ErrorDetails {
  readonly cause?: unknown;
  readonly outcome?: Outcome;
}

type FieldsOf<Self> = { readonly [Name in Exclude<keyof Self, keyof RedthreadError>]?: Self[Name] };

/** On the prototype of every error, also in other copies of this package. */
const BRAND = Symbol.for("redthread.error");

/**
 * Base of every error that redthread throws on purpose. Branch on `code`, never on the message. `instanceof` holds for errors
 * of another copy of this package as well. Each class declares the fields that its errors carry, `Self` passes them on to
 * the constructor.
 */
export abstract class RedthreadError<Self = object> extends Error {
  abstract readonly code: `REDTHREAD_${string}`;
  declare readonly outcome?: Outcome;

  static {
    Object.defineProperty(this.prototype, BRAND, { value: true });
  }

  constructor(message: string, details: ErrorDetails & FieldsOf<Self> = {}) {
    const { cause, ...fields } = details;
    super(message, cause === undefined ? undefined : { cause });
    Object.assign(this, fields);
  }

  override get name(): string {
    return this.constructor.name;
  }

  /** An error of another copy belongs to the class with its code. A user's subclass has no such counterpart. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    const isMadeBy = (made: object): boolean => Function.prototype[Symbol.hasInstance].call(made, value);
    if (isMadeBy(this)) return true;
    if (isMadeBy(RedthreadError)) return false;
    const { [BRAND]: isOurs, code } = Object(value) as { [BRAND]?: boolean; code?: unknown };
    if (isOurs !== true) return false;
    return this === RedthreadError || ERROR_CLASSES.some((made) => made === this && new made("").code === code);
  }
}

/** Options or environment are wrong. Nothing was opened. */
export class ConfigInvalidError extends RedthreadError<ConfigInvalidError> {
  override readonly code = "REDTHREAD_CONFIG_INVALID";
  /** Everything that is wrong, one sentence each. */
  declare readonly problems: readonly string[];

  constructor(message: string, details: ErrorDetails & Partial<Pick<ConfigInvalidError, "problems">> = {}) {
    super(message, { problems: [message], ...details });
  }
}
/** No connection within the retry deadline; `cause` is the last attempt's failure. */
export class ConnectFailedError extends RedthreadError {
  override readonly code = "REDTHREAD_CONNECT_FAILED";
}
/** The server rejected the credentials. It is final at a first connect, except that `redis.credentials` is asked once more. */
export class AuthFailedError extends RedthreadError<AuthFailedError> {
  override readonly code = "REDTHREAD_AUTH_FAILED";
  /** The code of the server's reply, such as WRONGPASS. */
  declare readonly reply?: string;
}
/** The command did not run, because it was not sent or a node of a Cluster turned it away: repeating it is safe. */
export class NotSentError extends RedthreadError<NotSentError> {
  override readonly code = "REDTHREAD_NOT_SENT";
  declare readonly command?: string;
}
/** The connection was lost after the command was written: it may or may not have run. */
export class ReplyLostError extends RedthreadError<ReplyLostError> {
  override readonly code = "REDTHREAD_REPLY_LOST";
  declare readonly command?: string;
}
/**
 * Nothing came from the server for `silentMs`, `ahead` other commands are answered first, only a part of the reply has come, or the
 * thread's loop was blocked for `blockedMs` at the deadline and something else came after it.
 */
export type TimeoutReason = "server-silent" | "queued" | "reply-arriving" | "loop-blocked";

/** The command was written and no reply came by its deadline: it may still run. */
export class CommandTimeoutError extends RedthreadError<CommandTimeoutError> {
  override readonly code = "REDTHREAD_COMMAND_TIMEOUT";
  /** Undefined, as the command and its numbers, where the helper of `redthread/sync` gave no answer within `guardMs`. */
  declare readonly reason?: TimeoutReason;
  declare readonly command?: string;
  declare readonly commandTimeoutMs?: number;
  declare readonly silentMs?: number;
  declare readonly ahead?: number;
  declare readonly blockedMs?: number;
  declare readonly guardMs?: number;
}
/** The command would spoil a client that others share; use `withDedicated`. */
export class NeedsDedicatedError extends RedthreadError<NeedsDedicatedError> {
  override readonly code = "REDTHREAD_NEEDS_DEDICATED";
  declare readonly command: string;
}
/** No client of redthread can run the command. Nothing was written. */
export class CommandRefusedError extends RedthreadError<CommandRefusedError> {
  override readonly code = "REDTHREAD_COMMAND_REFUSED";
  declare readonly command: string;
  /** Why, or what to do instead. */
  declare readonly reason: string;
}
/** The command has no one node of the Cluster to go to, or would go to several. */
export class NotInClusterError extends RedthreadError<NotInClusterError> {
  override readonly code = "REDTHREAD_NOT_IN_CLUSTER";
  declare readonly command: string;
}
/** `wait`: for a client, or room for one. `connect`: a dial, or the pause before it. `validate`: a check after idleness. */
export type AcquirePhase = "wait" | "connect" | "validate";

/** No dedicated client within `acquireTimeoutMs`. */
export class AcquireTimeoutError extends RedthreadError<AcquireTimeoutError> {
  override readonly code = "REDTHREAD_ACQUIRE_TIMEOUT";
  /** Where the time went. */
  declare readonly phase: AcquirePhase;
  declare readonly elapsedMs: number;
  /** Clients that other callers hold. */
  declare readonly out: number;
  declare readonly idle: number;
  /** Callers that wait for a client. */
  declare readonly waiting: number;
  declare readonly max: number;
}
/** Redis is away, and one prober tries to connect for the whole process. */
export class CircuitOpenError extends RedthreadError<CircuitOpenError> {
  override readonly code = "REDTHREAD_CIRCUIT_OPEN";
  /** When it tries again; 0 while it does. */
  declare readonly nextProbeMs: number;
}
/** The server closed the connection before it said a word, as a server does that has reached its maxclients. */
export class MaxclientsSuspectedError extends RedthreadError {
  override readonly code = "REDTHREAD_MAXCLIENTS_SUSPECTED";
}
/** The manager, or this thread, no longer takes work. */
export class ShuttingDownError extends RedthreadError {
  override readonly code = "REDTHREAD_SHUTTING_DOWN";
}
/** The tasks module exports no such task. */
export class TaskNotFoundError extends RedthreadError<TaskNotFoundError> {
  override readonly code = "REDTHREAD_TASK_NOT_FOUND";
  /** The names of the tasks that it exports. */
  declare readonly tasks: readonly string[];
}
/** The task did not settle within its `timeoutMs`, counted from the call to `run`. */
export class TaskTimeoutError extends RedthreadError<TaskTimeoutError> {
  override readonly code = "REDTHREAD_TASK_TIMEOUT";
  /** Undefined in the thread, as the reason of the task's signal. */
  declare readonly timeoutMs?: number;
}
/** The task was given up: by its caller's signal, or by the shutdown. */
export class TaskAbortedError extends RedthreadError {
  override readonly code = "REDTHREAD_TASK_ABORTED";
}
/** `queue.max` tasks are waiting already. */
export class QueueFullError extends RedthreadError<QueueFullError> {
  override readonly code = "REDTHREAD_QUEUE_FULL";
  /** Tasks that wait. */
  declare readonly queued: number;
}
/** A task's input, result or context, or a synchronous call's argument or reply, cannot cross threads. */
export class NotCloneableError extends RedthreadError<NotCloneableError> {
  override readonly code = "REDTHREAD_NOT_CLONEABLE";
  /** The part that cannot cross, such as `input.items[3].socket`. */
  declare readonly path: string;
}
/** A thread could not start: tasks module, `setup`, or silence for `startTimeoutMs`. */
export class ThreadStartFailedError extends RedthreadError<ThreadStartFailedError> {
  override readonly code = "REDTHREAD_THREAD_START_FAILED";
  /** What `process.exit()` was given, where that ended the thread. */
  declare readonly exitCode?: number;
}
/** The thread ended under the task; `cause` says why. */
export class ThreadDiedError extends RedthreadError<ThreadDiedError> {
  override readonly code = "REDTHREAD_THREAD_DIED";
  declare readonly threadId: number;
  /** What `process.exit()` was given, where that ended the thread. */
  declare readonly exitCode?: number;
}

/** What holds a lock, as far as its value tells. */
export interface LockHolder {
  /** `<appName>:<host>:<pid>:<threadId>` of the holder. */
  readonly name: string;
  /** When its thread acquired the lock, in ms since 1970, by the server's clock. Absent for a lock with a `limit`, and for another library's. */
  readonly since?: number;
  /** How long the lock lasts if it is not extended: Infinity if its key has no ttl. */
  readonly ttlLeftMs: number;
}

/** The lock was not acquired within `waitMs`, or the caller holds it already. */
export class LockNotAcquiredError extends RedthreadError<LockNotAcquiredError> {
  override readonly code = "REDTHREAD_LOCK_NOT_ACQUIRED";
  declare readonly key: string;
  declare readonly waitedMs: number;
  /** What held it at the last look. Absent if the caller itself holds or awaits it, with `replicas`, and if the reply was read too late. */
  declare readonly holder?: LockHolder;
  /** Too few replicas had acknowledged the lock at the last try, so it was released again. */
  declare readonly replicas?: { readonly wanted: number; readonly acknowledged: number };
}

/**
 * `expired`: it was not extended in time, as while Redis was away. `gone`: its key was deleted, or is another holder's. `maxHold`: it
 * was held for `maxHoldMs`. `clock`: the machine was suspended, or its clock was set. `released`: its own holder has released it. `shutdown`: its thread
 * closed before its holder was done.
 */
export type LockLoss = "expired" | "gone" | "maxHold" | "clock" | "released" | "shutdown";

/** The lock was lost while it was held: somebody else may have it. */
export class LockLostError extends RedthreadError<LockLostError> {
  override readonly code = "REDTHREAD_LOCK_LOST";
  declare readonly key: string;
  declare readonly reason: LockLoss;
  /** How long it was held for certain, from its acquire on. */
  declare readonly heldMs: number;
}

/** Every class, so that an error that crossed threads becomes what it was. */
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
  LockNotAcquiredError,
  LockLostError,
] as const;
