import type { Transferable } from "node:worker_threads";
import { fromErrorData, uncloneablePath } from "../common/envelope.js";
import { NotCloneableError, TaskAbortedError, TaskTimeoutError, type Outcome } from "../common/errors.js";
import type { CancelReason, ResultMessage, TaskMessage } from "../common/protocol.js";
import type { Thread } from "./thread.js";

export interface RunOptions {
  /** Aborts the task's own signal and rejects TASK_ABORTED. */
  readonly signal?: AbortSignal;
  /** From this call to the result; then TASK_TIMEOUT. Default: none. */
  readonly timeoutMs?: number;
  /** Parts of the input that move to the thread instead of being copied. */
  readonly transferList?: readonly Transferable[];
  /** No other task runs in that thread meanwhile. Default false. */
  readonly exclusive?: boolean;
  /**
   * A task that goes on after its timeout or abort: "thread" (the default) ends its thread after `cancelGraceMs` if the
   * loop is blocked or the task is exclusive, and with it the tasks beside it; "cooperative" never does.
   */
  readonly cancel?: "thread" | "cooperative";
  /** Plain data for the task's context, shown in its log lines. */
  readonly context?: unknown;
}

/** One call of `run`, from the queue to its one outcome. */
export class Job {
  readonly message: TaskMessage;
  readonly options: RunOptions;
  readonly result: Promise<unknown>;
  /** Where it was sent; none while it waits. */
  thread: Thread | undefined;
  settled = false;
  onSettled: (() => void) | undefined;
  #resolve!: (value: unknown) => void;
  #reject!: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(id: number, name: string, input: unknown, options: RunOptions) {
    const { context } = options;
    this.message = { id, name, input, ...(context === undefined ? {} : { context }) };
    this.options = options;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  /** Starts its clock, if it has one. */
  startTimer(giveUp: (job: Job, reason: CancelReason, error: Error) => void): void {
    const { timeoutMs } = this.options;
    if (timeoutMs === undefined) return;
    this.#timer = setTimeout(() => giveUp(this, "timeout", this.#timedOut(timeoutMs)), timeoutMs);
  }

  /** False if it was settled before: a result after a timeout is nobody's. */
  finish(result: ResultMessage): boolean {
    if (!this.#settle()) return false;
    if (result.ok) this.#resolve(result.value);
    else this.#reject(fromErrorData(result.error));
    return true;
  }

  /** Likewise. */
  abandon(error: Error): boolean {
    if (!this.#settle()) return false;
    this.#reject(error);
    return true;
  }

  aborted(cause: unknown): TaskAbortedError {
    const { name } = this.message;
    return new TaskAbortedError(`task ${name} was given up by its caller's signal`, { outcome: this.#outcome, cause });
  }

  notCloneable(cause: unknown): NotCloneableError {
    const { name, input, context } = this.message;
    const path = uncloneablePath(input, "input") ?? uncloneablePath(context, "context") ?? "the transferList";
    return new NotCloneableError(`task ${name} was not sent: ${path} cannot be cloned or transferred to a thread`, {
      outcome: "not-sent",
      path,
      cause,
    });
  }

  #timedOut(timeoutMs: number): TaskTimeoutError {
    const where = this.thread ? `in thread ${this.thread.threadId}` : "waiting for a thread";
    return new TaskTimeoutError(`task ${this.message.name} did not settle within ${timeoutMs} ms (${where})`, {
      outcome: this.#outcome,
      timeoutMs,
    });
  }

  get #outcome(): Outcome {
    return this.thread ? "unknown" : "not-sent";
  }

  #settle(): boolean {
    if (this.settled) return false;
    this.settled = true;
    clearTimeout(this.#timer);
    this.onSettled?.();
    return true;
  }
}
