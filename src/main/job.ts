import type { Transferable } from "node:worker_threads";
import type { TaskMessage, Trace } from "../common/channels.js";
import { uncloneablePath } from "../common/envelope.js";
import {
  ConfigInvalidError,
  NotCloneableError,
  TaskAbortedError,
  TaskTimeoutError,
  type Outcome,
} from "../common/errors.js";
import type { CancelReason } from "../common/protocol.js";
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
  /** Of the tasks that wait for a thread, those with a higher one go first. Default 0. */
  readonly priority?: number;
  /**
   * A task that goes on after its timeout or abort: "thread" (the default) ends its thread after `cancelGraceMs` if the
   * loop is blocked or the task is exclusive, and with it the tasks beside it; "cooperative" never does.
   */
  readonly cancel?: "thread" | "cooperative";
  /** Hears, while the task runs, each value that it gives to its context's `report`. If it throws, the task is given up. */
  readonly onReport?: (value: unknown) => void;
  /** Plain data for the task's context, shown in its log lines. */
  readonly context?: unknown;
}

/** Who hears of a job's one outcome. */
export interface JobCallbacks {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** One task of one caller, from the queue to its one outcome. */
export class Job {
  readonly id: number;
  readonly name: string;
  readonly input: unknown;
  readonly options: RunOptions;
  /** Where it was sent; none while it waits. */
  thread: Thread | undefined;
  /** What its thread's loop was expected to be busy with it. */
  busyMs = 0;
  /** It was expected to wait for nothing there. */
  isImmediate = false;
  settled = false;
  /** While somebody listens to `redthread:task`. */
  trace: Trace<TaskMessage> | undefined;
  onSettled: (() => void) | undefined;
  readonly #callbacks: JobCallbacks;
  #timer: NodeJS.Timeout | undefined;

  constructor(id: number, name: string, input: unknown, options: RunOptions, callbacks: JobCallbacks) {
    this.id = id;
    this.name = name;
    this.input = input;
    this.options = options;
    this.#callbacks = callbacks;
  }

  get priority(): number {
    return this.options.priority ?? 0;
  }

  /** Starts its clock, if it has one. */
  startTimer(giveUp: (job: Job, reason: CancelReason, error: Error) => void): void {
    const { timeoutMs } = this.options;
    if (timeoutMs === undefined) return;
    this.#timer = setTimeout(() => giveUp(this, "timeout", this.#timedOut(timeoutMs)), timeoutMs);
  }

  /** False if it was settled before: a result after a timeout is nobody's. */
  finish(value: unknown): boolean {
    if (!this.#settle()) return false;
    this.trace?.done();
    this.#callbacks.resolve(value);
    return true;
  }

  /** Likewise. */
  fail(error: unknown): boolean {
    if (!this.#settle()) return false;
    this.trace?.failed(error);
    this.#callbacks.reject(error);
    return true;
  }

  aborted(cause: unknown): TaskAbortedError {
    const { name } = this;
    return new TaskAbortedError(`task ${name} was given up by its caller's signal`, { outcome: this.#outcome, cause });
  }

  notCloneable(cause: unknown): NotCloneableError {
    const { name, input, options } = this;
    const path = uncloneablePath(input, "input") ?? uncloneablePath(options.context, "context") ?? "the transferList";
    return new NotCloneableError(`task ${name} was not sent: ${path} cannot be cloned or transferred to a thread`, {
      outcome: "not-sent",
      path,
      cause,
    });
  }

  #timedOut(timeoutMs: number): TaskTimeoutError {
    const where = this.thread ? `in thread ${this.thread.threadId}` : "waiting for a thread";
    return new TaskTimeoutError(`task ${this.name} did not settle within ${timeoutMs} ms (${where})`, {
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

export function badRunOptions(name: string, { timeoutMs = 0, priority = 0 }: RunOptions): Error | undefined {
  if (!(timeoutMs >= 0 && timeoutMs < 2 ** 31)) {
    return new ConfigInvalidError(`task ${name}: timeoutMs must be between 0 and 2 147 483 647 ms, not ${timeoutMs}`);
  }
  if (Number.isFinite(priority)) return undefined;
  return new ConfigInvalidError(`task ${name}: priority must be a finite number, not ${priority}`);
}
