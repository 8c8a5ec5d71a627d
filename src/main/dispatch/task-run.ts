import { AsyncResource } from "node:async_hooks";
import { types } from "node:util";
import type { Transferable } from "node:worker_threads";
import type { TaskMessage, Trace } from "../../core/channels.js";
import {
  ConfigInvalidError,
  NotCloneableError,
  TaskAbortedError,
  TaskTimeoutError,
  type Outcome,
} from "../../core/errors.js";
import { isPrimitive } from "../../core/plain.js";
import { unknownOption } from "../../core/names.js";
import { crossAlone } from "../../link/lone-crossing.js";
import { AS_IT_IS, type Make, restored } from "../../link/crossing.js";
import type { CancelReason } from "../../link/protocol.js";
import { copyIfSmall } from "../../link/small-copy.js";
import { isTooDeep, uncloneablePath } from "../../link/uncloneable.js";
import type { Thread } from "../threads/thread.js";

export interface RunOptions {
  /** Its abort aborts the task's own signal and rejects TASK_ABORTED. A reason that is a text is in both messages. */
  readonly signal?: AbortSignal | undefined;
  /** The time from this call to the result. After it the task rejects TASK_TIMEOUT. Default: none. */
  readonly timeoutMs?: number | undefined;
  /**
   * Parts of the input that move to the thread when the input is sent, instead of being copied. An ArrayBuffer moves only if
   * the input's views cover all of it, because other parts, as of a reply's or a small Buffer's, may belong to other code.
   */
  readonly transferList?: readonly Transferable[] | undefined;
  /** No other task runs in the thread meanwhile. Default false. */
  readonly exclusive?: boolean | undefined;
  /** Of the tasks that wait for a thread, a task with a higher priority goes first. Default 0. */
  readonly priority?: number | undefined;
  /**
   * What becomes of a task that goes on after its timeout or abort. "thread" (the default) ends its thread after
   * `cancelGraceMs` if the loop is blocked or the task is exclusive, and with it the tasks beside it. "cooperative" never does.
   */
  readonly cancel?: "thread" | "cooperative" | undefined;
  /**
   * After the signal's abort a task that has been sent to its thread has `cancelGraceMs` to settle, and its own result or
   * error counts. TASK_ABORTED comes only after that. Default false: TASK_ABORTED at once.
   */
  readonly awaitOutcome?: boolean | undefined;
  /**
   * Called with each value that the running task gives to its context's `report`, in the AsyncLocalStorage of this call. If it
   * throws or rejects, the task is given up. A rejection is logged as well.
   */
  readonly onReport?: ((value: unknown) => void) | undefined;
  /** Plain data for the task's context, shown in its log lines. It is cloned as the input is. */
  readonly context?: unknown;
}

/** The caller's end of a run: one of the two functions is called, once. */
export interface TaskRunCallbacks {
  /** The number of the input, for a run of `map`. */
  readonly index?: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** One task of one caller, from the queue to its one outcome. */
export class TaskRun {
  readonly id: number;
  readonly name: string;
  /** A copy where it is small and plain, so that the task gets what was given at the call. */
  readonly input: unknown;
  readonly #inputMake: Make;
  /** A copy like the input. */
  readonly context: unknown;
  readonly #contextMake: Make;
  readonly options: RunOptions;
  /** The run needs a message of its own, because it may share a value with other tasks, or moves buffers. */
  isAlone: boolean;
  /** The number of the message that brought the run to its thread. */
  message = 0;
  /** The caller's AsyncLocalStorage stores, for its listener and for the task's log lines. */
  readonly scope = new AsyncResource("redthread.run");
  /** The thread that the run was given to. Undefined while it waits. */
  thread: Thread | undefined;
  /** How long its thread's loop was expected to be busy with it. */
  busyMs = 0;
  /** It was expected to wait for nothing in its thread. */
  isImmediate = false;
  settled = false;
  /** Present while `redthread:task` has subscribers. */
  trace: Trace<TaskMessage> | undefined;
  onSettled: (() => void) | undefined;
  readonly #callbacks: TaskRunCallbacks;
  #timer: NodeJS.Timeout | undefined;

  constructor(id: number, name: string, input: unknown, options: RunOptions, callbacks: TaskRunCallbacks) {
    this.id = id;
    this.name = name;
    this.options = options;
    this.#callbacks = callbacks;
    const { context, transferList } = options;
    const copiedInput = isPrimitive(input) || transferList ? undefined : copyIfSmall(input); // a copy cannot be moved
    const copiedContext = isPrimitive(context) ? undefined : copyIfSmall(context);
    this.input = copiedInput ? copiedInput.value : input;
    this.#inputMake = copiedInput?.make ?? AS_IT_IS;
    this.context = copiedContext ? copiedContext.value : context;
    this.#contextMake = copiedContext?.make ?? AS_IT_IS;
    this.isAlone =
      transferList !== undefined ||
      !(isPrimitive(this.input) || copiedInput) ||
      !(isPrimitive(this.context) || copiedContext);
  }

  get priority(): number {
    return this.options.priority ?? 0;
  }

  /** Adds its entries to a message's list of tasks. */
  addTo(tasks: unknown[]): void {
    tasks.push(this.id, this.name, this.input, this.context, this.#inputMake, this.#contextMake);
  }

  /** Its entries in a message of its own. @throws what the values' getters throw, and where a listed buffer was moved before */
  cross(): { readonly entries: readonly unknown[]; readonly transferList: readonly Transferable[] } {
    const input = crossAlone(this.input, this.options.transferList);
    const context = crossAlone(this.context);
    const entries = [
      this.id,
      this.name,
      input.value,
      context.value,
      this.#inputMake || input.make,
      this.#contextMake || context.make,
    ];
    return { entries, transferList: [...input.transferList, ...context.transferList] };
  }

  /** Starts the time of `timeoutMs`. */
  startTimer(giveUp: (run: TaskRun, reason: CancelReason, error: Error) => void): void {
    const { timeoutMs } = this.options;
    if (timeoutMs === undefined) return;
    this.#timer = setTimeout(() => giveUp(this, "timeout", this.#timedOut(timeoutMs)), timeoutMs);
  }

  /** False if it was settled before: a result after a timeout counts for nothing. */
  finish(value: unknown): boolean {
    if (!this.#settle()) return false;
    this.trace?.done();
    this.#callbacks.resolve(value);
    return true;
  }

  /** False if it was settled before. */
  fail(error: unknown): boolean {
    if (!this.#settle()) return false;
    this.trace?.failed(error);
    this.#callbacks.reject(error);
    return true;
  }

  /**
   * Calls the caller's `onReport`, in the caller's AsyncLocalStorage, while the caller still waits. What the listener throws
   * or rejects with goes to `onError`.
   */
  report(value: unknown, make: Make, onError: (error: unknown, isRejection: boolean) => void): void {
    if (!this.options.onReport || this.settled) return;
    this.scope.runInAsyncScope(() => {
      try {
        const told: unknown = this.options.onReport?.(restored(value, make));
        if (types.isPromise(told)) told.catch((error: unknown) => onError(error, true));
      } catch (error) {
        onError(error, false);
      }
    });
  }

  aborted(cause: unknown): TaskAbortedError {
    const why = typeof cause === "string" ? `: ${cause}` : "";
    return new TaskAbortedError(`task ${this.name} was given up by its caller's signal${why}`, {
      outcome: this.#outcome,
      cause,
    });
  }

  notCloneable(cause: unknown): NotCloneableError {
    const { name, input, context, options } = this;
    const found = uncloneablePath(input, "input") ?? uncloneablePath(context, "context");
    const path = found ?? (options.transferList && !isTooDeep(cause) ? "the transferList" : this.#largest);
    const why = isTooDeep(cause)
      ? "is nested too deeply to be cloned"
      : found || !options.transferList
        ? "cannot be cloned or transferred to a thread"
        : "cannot be transferred: it takes buffers and ports, each of them once, and no views";
    return new NotCloneableError(`task ${name} was not sent: ${path} ${why}`, { outcome: "not-sent", path, cause });
  }

  /** The thread could not read the message that brought only this run. The task has not begun. */
  unreadable(): NotCloneableError {
    const { name } = this;
    const path = this.#largest;
    const why = `its thread could not read its ${path}, as where that is nested too deeply`;
    return new NotCloneableError(`task ${name} has not begun: ${why}`, {
      outcome: "not-sent",
      path,
    });
  }

  /** The task has ended, and the message with its result could not be read. */
  resultUnreadable(): NotCloneableError {
    const why = "its result could not be read on the main thread, as where it is nested too deeply";
    return new NotCloneableError(`task ${this.name} has ended, but ${why}`, {
      outcome: "unknown",
      path: "result",
    });
  }

  #timedOut(timeoutMs: number): TaskTimeoutError {
    const where = this.thread ? `in thread ${this.thread.threadId}` : "waiting for a thread";
    return new TaskTimeoutError(`task ${this.name} did not settle within ${timeoutMs} ms (${where})`, {
      outcome: this.#outcome,
      timeoutMs,
    });
  }

  /** The value that is likely to be at fault where nothing tells which. */
  get #largest(): "input" | "context" {
    return isPrimitive(this.input) ? "context" : "input";
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

/** The known options: a misspelled name is an error, because it would have no effect. */
export const RUN_OPTIONS: Readonly<Record<keyof RunOptions, true>> = {
  signal: true,
  timeoutMs: true,
  transferList: true,
  exclusive: true,
  priority: true,
  cancel: true,
  awaitOutcome: true,
  onReport: true,
  context: true,
};

export function badRunOptions(name: string, options: RunOptions, known: object = RUN_OPTIONS): Error | undefined {
  const problem = unknownOption(options, known) ?? badValue(options);
  return problem === undefined ? undefined : new ConfigInvalidError(`task ${String(name)}: ${problem}`);
}

function badValue({ timeoutMs = 0, priority = 0, cancel = "thread" }: RunOptions): string | undefined {
  if (!(timeoutMs >= 0 && timeoutMs < 2 ** 31))
    return `timeoutMs must be between 0 and 2 147 483 647 ms, not ${timeoutMs}`;
  if (!Number.isFinite(priority)) return `priority must be a finite number, not ${priority}`;
  return cancel === "thread" || cancel === "cooperative" ? undefined : 'cancel must be "thread" or "cooperative"';
}
