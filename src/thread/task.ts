import { AsyncResource } from "node:async_hooks";
import { threadId, type Transferable } from "node:worker_threads";
import { executionChannel, type ExecutionMessage, Trace, type TraceContext } from "../core/channels.js";
import { NotCloneableError, TaskAbortedError, TaskTimeoutError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import { isPrimitive } from "../core/plain.js";
import { crossAlone, type LoneCrossing } from "../link/lone-crossing.js";
import { AS_IT_IS } from "../link/crossing.js";
import type { CancelReason, FromThread } from "../link/protocol.js";
import { copyIfSmall } from "../link/small-copy.js";
import { isTooDeep, uncloneablePath } from "../link/uncloneable.js";
import type { LogPort } from "./log-port.js";

/** What a task gets besides its input. */
export interface TaskContext {
  /** Aborts when the caller gives up, the task's time is over, or the shutdown can wait no longer. */
  readonly signal: AbortSignal;
  /** Writes through the manager's logger; each line names this task. */
  readonly logger: Logger;
  readonly threadId: number;
  /** Random, and unique among managers and processes, so that it can be the owner of a lock in Redis. */
  readonly taskId: string;
  /** What the caller passed as `context` to `run`. */
  readonly context: unknown;
  /**
   * Calls the caller's `onReport` with a value while the task runs, before its result; each call is a message to the main thread.
   * Without an `onReport`, and after the caller gave up, the value is dropped.
   * @throws REDTHREAD_NOT_CLONEABLE
   */
  readonly report: (value: unknown) => void;
}

export type TaskFunction = (input: unknown, context: TaskContext) => unknown;

/** What all tasks of a thread share. */
export interface TaskThread {
  readonly logs: LogPort;
  readonly taskPrefix: string;
  readonly post: (message: FromThread, transfer: readonly Transferable[]) => void;
}

/** A task in its thread, and the context that it gets. Signal and logger are made at their first use. */
export class ThreadTask implements TaskContext {
  readonly threadId = threadId;
  /** Its number among the manager's tasks. */
  readonly id: number;
  readonly context: unknown;
  /** The trace context of the caller's tracer. */
  trace: TraceContext | undefined;
  readonly #name: string;
  readonly #input: unknown;
  readonly #thread: TaskThread;
  /** Its own, so that what a task enters in an AsyncLocalStorage is not there for the next. Made where nothing is entered. */
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

  /** Throws without calling the task if it was given up before its turn: the task could no longer hear its signal's abort. */
  run(task: TaskFunction): unknown {
    if (this.#abortReason) throw notBegun(this.#abortReason);
    return this.#scope.runInAsyncScope(task, undefined, this.#input, this);
  }

  /** As `run`, and tells the subscribers of `redthread:execution`. */
  runTraced(task: TaskFunction): Promise<unknown> {
    const { taskId, trace } = this;
    const message: ExecutionMessage = { taskId, task: this.#name, threadId, ...(trace && { trace }) };
    const begin = (): unknown => {
      if (this.#abortReason) throw notBegun(this.#abortReason);
      return task(this.#input, this);
    };
    const traced = async (): Promise<unknown> => (message.around ? message.around(begin) : begin());
    return this.#scope.runInAsyncScope(() => new Trace(executionChannel, message).during(traced));
  }

  /** Made on request, because most tasks do not read it. */
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

  /** A function without `this`, because tasks take it out of their context. */
  get report(): (value: unknown) => void {
    return (value) => this.#report(value);
  }

  get name(): string {
    return this.#name;
  }

  /** `why`: the reason of the caller's signal, if it is a text. */
  abort(reason: CancelReason, why?: string): void {
    this.#abort(abortError(reason, this.#name, why));
  }

  /** A lock that it holds was lost. */
  lostLock(loss: Error): void {
    this.#abort(loss);
  }

  #abort(reason: Error): void {
    this.#abortReason ??= reason;
    const controller = this.#controller;
    // The listeners belong to the task and may enter an AsyncLocalStorage.
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

function notBegun(reason: Error): Error {
  return Object.assign(reason, { outcome: "not-sent" });
}

function abortError(reason: CancelReason, name: string, why: string | undefined): Error {
  if (reason === "timeout") return new TaskTimeoutError(`task ${name} did not settle in time`);
  const by = reason === "shutdown" ? "the shutdown" : "its caller";
  return new TaskAbortedError(`task ${name} was given up by ${by}${why === undefined ? "" : `: ${why}`}`, {
    cause: why,
  });
}
