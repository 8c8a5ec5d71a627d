import { AsyncResource } from "node:async_hooks";
import { threadId, type Transferable } from "node:worker_threads";
import { executionChannel, type ExecutionMessage, Trace, type TraceContext } from "../core/channels.js";
import { NotCloneableError, TaskAbortedError, TaskTimeoutError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import { isPrimitive } from "../core/plain.js";
import { crossAlone, type LoneCrossing } from "../link/lone-crossing.js";
import { AS_IT_IS } from "../link/make.js";
import type { CancelReason, FromThread } from "../link/protocol.js";
import { copyIfSmall } from "../link/small-copy.js";
import { isTooDeep, uncloneablePath } from "../link/uncloneable.js";
import type { LogPort } from "./log-port.js";

/** What a task gets beside its input. */
export interface TaskContext {
  /** Aborted when the caller gave up, the task's time is over, or the shutdown can wait no longer. */
  readonly signal: AbortSignal;
  /** Writes through the manager; each line names this task. */
  readonly logger: Logger;
  readonly threadId: number;
  /** Random, and unique over managers and processes: it can be the owner of a lock in Redis. */
  readonly taskId: string;
  /** What the caller passed as `context` to `run`. */
  readonly context: unknown;
  /**
   * Hands the caller's `onReport` a value while the task runs, before its result; each is a message to the main thread.
   * Nobody hears of it where the caller gave no `onReport`, or has given up.
   * @throws REDTHREAD_NOT_CLONEABLE
   */
  readonly report: (value: unknown) => void;
}

export type TaskFunction = (input: unknown, context: TaskContext) => unknown;

/** What the tasks of a thread share. */
export interface TaskThread {
  readonly logs: LogPort;
  readonly taskPrefix: string;
  readonly post: (message: FromThread, transfer: readonly Transferable[]) => void;
}

/** A task in its thread, and the context that it gets: signal and logger are made when somebody asks for them. */
export class ThreadTask implements TaskContext {
  readonly threadId = threadId;
  /** Among its manager's tasks. */
  readonly id: number;
  readonly context: unknown;
  /** What the caller's tracer sent along. */
  trace: TraceContext | undefined;
  readonly #name: string;
  readonly #input: unknown;
  readonly #thread: TaskThread;
  /** Its own: what it enters in an AsyncLocalStorage is not there for the next task. Made where nothing is entered. */
  readonly #scope = new AsyncResource("redthread.task");
  #controller: AbortController | undefined;
  #abortReason: Error | undefined;
  #logger: Logger | undefined;

  constructor(id: number, name: string, input: unknown, context: unknown, thread: TaskThread) {
    this.id = id;
    this.context = context;
    this.#name = name;
    this.#input = input;
    this.#thread = thread;
  }

  /** Not at all where it was given up before its turn: what listens for its signal would listen in vain. */
  run(task: TaskFunction): unknown {
    if (this.#abortReason) throw notBegun(this.#abortReason);
    return this.#scope.runInAsyncScope(task, undefined, this.#input, this);
  }

  /** As `run`, with whatever `around` does first. */
  runWithin(around: (run: () => unknown) => unknown, task: TaskFunction): unknown {
    return this.#scope.runInAsyncScope(around, undefined, () => {
      if (this.#abortReason) throw notBegun(this.#abortReason);
      return task(this.#input, this);
    });
  }

  /** Made when somebody asks: most tasks do not. */
  get taskId(): string {
    return this.#thread.taskPrefix + this.id;
  }

  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.#abortReason) this.#controller.abort(this.#abortReason);
    }
    return this.#controller.signal;
  }

  get logger(): Logger {
    const { taskId, context } = this;
    return (this.#logger ??= this.#thread.logs.ofTask(this.id, { task: this.#name, taskId, context }));
  }

  /** A function of its own: tasks take it out of their context. */
  get report(): (value: unknown) => void {
    return (value) => this.#report(value);
  }

  get name(): string {
    return this.#name;
  }

  /** `why`: what the caller's signal said, if that was a text. */
  abort(reason: CancelReason, why?: string): void {
    this.#abortReason ??= abortError(reason, this.#name, why);
    const controller = this.#controller;
    // The listeners are the task's, and may enter an AsyncLocalStorage.
    if (controller) this.#scope.runInAsyncScope(() => controller.abort(this.#abortReason));
  }

  #report(value: unknown): void {
    try {
      const { transferList, ...crossing } = crossingOf(value);
      this.#thread.post({ type: "report", id: this.id, ...crossing }, transferList);
    } catch (cause) {
      const path = uncloneablePath(value, "report") ?? "report";
      const why = isTooDeep(cause) ? "is nested too deeply to be cloned" : "cannot be cloned";
      throw new NotCloneableError(`task ${this.#name} cannot report this to its caller: ${path} ${why}`, {
        path,
        cause,
      });
    }
  }
}

function crossingOf(report: unknown): LoneCrossing {
  if (isPrimitive(report)) return { value: report, make: AS_IT_IS, transferList: [] };
  const copied = copyIfSmall(report);
  return copied ? { ...copied, transferList: [] } : crossAlone(report);
}

/** As `task.run`, for those who listen to `redthread:execution`. */
export function runTraced(task: ThreadTask, run: TaskFunction): Promise<unknown> {
  const message: ExecutionMessage = {
    taskId: task.taskId,
    task: task.name,
    threadId,
    ...(task.trace && { trace: task.trace }),
  };
  const traced = (begin: () => unknown): Promise<unknown> =>
    new Trace(executionChannel, message).during(async () => {
      const { around } = message;
      return around ? around(begin) : begin();
    });
  return task.runWithin(traced, run) as Promise<unknown>;
}

function notBegun(reason: Error): Error {
  return Object.assign(reason, { outcome: "not-sent" });
}

function abortError(reason: CancelReason, name: string, why: string | undefined): Error {
  if (reason === "timeout") return new TaskTimeoutError(`task ${name} did not settle in time`);
  const who = reason === "shutdown" ? "the shutdown" : "its caller";
  return new TaskAbortedError(`task ${name} was given up by ${who}${why === undefined ? "" : `: ${why}`}`, {
    cause: why,
  });
}
