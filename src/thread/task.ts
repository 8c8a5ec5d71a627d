import { threadId } from "node:worker_threads";
import { executionChannel, type ExecutionMessage, Trace, type TraceContext } from "../common/channels.js";
import { TaskAbortedError, TaskTimeoutError } from "../common/errors.js";
import type { Logger } from "../common/log.js";
import type { CancelReason } from "../common/protocol.js";
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
}

export type TaskFunction = (input: unknown, context: TaskContext) => unknown;

/** A task in its thread, and the context that it gets: signal and logger are made when somebody asks for them. */
export class ThreadTask implements TaskContext {
  readonly threadId = threadId;
  readonly taskId: number;
  readonly context: unknown;
  readonly #name: string;
  readonly #input: unknown;
  readonly #logs: LogPort;
  #controller: AbortController | undefined;
  #abortReason: Error | undefined;
  #logger: Logger | undefined;

  constructor(id: number, name: string, input: unknown, context: unknown, logs: LogPort) {
    this.taskId = id;
    this.context = context;
    this.#name = name;
    this.#input = input;
    this.#logs = logs;
  }

  run(task: TaskFunction): unknown {
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

  get name(): string {
    return this.#name;
  }

  abort(reason: CancelReason): void {
    this.#abortReason ??= abortError(reason, this.#name);
    this.#controller?.abort(this.#abortReason);
  }
}

/** As `task.run`, for those who listen to `redthread:execution`. */
export function runTraced(task: ThreadTask, run: TaskFunction, context: TraceContext | undefined): Promise<unknown> {
  const message: ExecutionMessage = {
    taskId: task.taskId,
    task: task.name,
    threadId,
    ...(context && { trace: context }),
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
