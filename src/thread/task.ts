import { threadId } from "node:worker_threads";
import { executionChannel, type ExecutionMessage, Trace, type TraceContext } from "../common/channels.js";
import { uncloneablePath } from "../common/envelope.js";
import { NotCloneableError, TaskAbortedError, TaskTimeoutError } from "../common/errors.js";
import type { Logger } from "../common/log.js";
import type { CancelReason, FromThread } from "../common/protocol.js";
import type { LogPort } from "./log-port.js";

/** What a task gets beside its input. */
export interface TaskContext {
  /** Aborted when the caller gave up, the task's time is over, or the shutdown can wait no longer. */
  readonly signal: AbortSignal;
  /** Writes through the manager; each line names this task. */
  readonly logger: Logger;
  readonly threadId: number;
  readonly taskId: number;
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

/** A task in its thread, and the context that it gets: signal and logger are made when somebody asks for them. */
export class ThreadTask implements TaskContext {
  readonly threadId = threadId;
  readonly taskId: number;
  readonly context: unknown;
  /** What the caller's tracer sent along. */
  trace: TraceContext | undefined;
  readonly #name: string;
  readonly #input: unknown;
  readonly #logs: LogPort;
  readonly #post: (message: FromThread) => void;
  #controller: AbortController | undefined;
  #abortReason: Error | undefined;
  #logger: Logger | undefined;

  constructor(
    id: number,
    name: string,
    input: unknown,
    context: unknown,
    logs: LogPort,
    post: (message: FromThread) => void,
  ) {
    this.taskId = id;
    this.context = context;
    this.#name = name;
    this.#input = input;
    this.#logs = logs;
    this.#post = post;
  }

  /** Not at all where it was given up before its turn: what listens for its signal would listen in vain. */
  run(task: TaskFunction): unknown {
    if (this.#abortReason) throw this.#abortReason;
    return task(this.#input, this);
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
    return (this.#logger ??= this.#logs.child({
      task: this.#name,
      taskId,
      threadId,
      ...(context === undefined ? {} : { context }),
    }));
  }

  /** A function of its own: tasks take it out of their context. */
  get report(): (value: unknown) => void {
    return (value) => this.#report(value);
  }

  get name(): string {
    return this.#name;
  }

  abort(reason: CancelReason): void {
    this.#abortReason ??= abortError(reason, this.#name);
    this.#controller?.abort(this.#abortReason);
  }

  #report(value: unknown): void {
    try {
      this.#post({ type: "report", id: this.taskId, value });
    } catch (cause) {
      const path = uncloneablePath(value, "report") ?? "report";
      throw new NotCloneableError(`task ${this.#name} cannot report this to its caller: ${path} cannot be cloned`, {
        path,
        cause,
      });
    }
  }
}

/** As `task.run`, for those who listen to `redthread:execution`. */
export function runTraced(task: ThreadTask, run: TaskFunction): Promise<unknown> {
  const message: ExecutionMessage = {
    taskId: task.taskId,
    task: task.name,
    threadId,
    ...(task.trace && { trace: task.trace }),
  };
  return new Trace(executionChannel, message).during(async () => {
    const { around } = message;
    return around ? around(() => task.run(run)) : task.run(run);
  });
}

function abortError(reason: CancelReason, name: string): Error {
  if (reason === "timeout") return new TaskTimeoutError(`task ${name} did not settle in time`);
  const who = reason === "shutdown" ? "the shutdown" : "its caller";
  return new TaskAbortedError(`task ${name} was given up by ${who}`);
}
