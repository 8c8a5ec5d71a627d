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
import { unknownOption } from "../../core/suggest.js";
import { crossAlone } from "../../link/lone-crossing.js";
import { AS_IT_IS, type Make, restored } from "../../link/make.js";
import type { CancelReason } from "../../link/protocol.js";
import { copyIfSmall } from "../../link/small-copy.js";
import { isTooDeep, uncloneablePath } from "../../link/uncloneable.js";
import type { Thread } from "../threads/thread.js";

export interface RunOptions {
  /** Aborts the task's own signal and rejects TASK_ABORTED. A reason that is a text is in both their messages. */
  readonly signal?: AbortSignal | undefined;
  /** From this call to the result; then TASK_TIMEOUT. Default: none. */
  readonly timeoutMs?: number | undefined;
  /**
   * Parts of the input that move to the thread, when it is sent there, instead of being copied. An ArrayBuffer moves only if
   * the input's views cover all of it: another part of it, as of a reply's or a small Buffer's, may be somebody else's.
   */
  readonly transferList?: readonly Transferable[] | undefined;
  /** No other task runs in that thread meanwhile. Default false. */
  readonly exclusive?: boolean | undefined;
  /** Of the tasks that wait for a thread, those with a higher one go first. Default 0. */
  readonly priority?: number | undefined;
  /**
   * A task that goes on after its timeout or abort: "thread" (the default) ends its thread after `cancelGraceMs` if the
   * loop is blocked or the task is exclusive, and with it the tasks beside it; "cooperative" never does.
   */
  readonly cancel?: "thread" | "cooperative" | undefined;
  /**
   * After the signal's abort a task that has been sent to its thread has `cancelGraceMs` to settle, and its own result or
   * error counts; TASK_ABORTED comes only then. Default false: TASK_ABORTED at once.
   */
  readonly awaitOutcome?: boolean | undefined;
  /**
   * Hears, while the task runs, each value that it gives to its context's `report`, in the AsyncLocalStorage of this call. If it
   * throws or rejects, the task is given up; a rejection is logged as well.
   */
  readonly onReport?: ((value: unknown) => void) | undefined;
  /** Plain data for the task's context, shown in its log lines. Crosses as the input does. */
  readonly context?: unknown;
}

/** Who hears of a job's one outcome. */
export interface TaskRunCallbacks {
  /** Of `map`: which of its inputs. */
  readonly index?: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** A job's entries in a message's list of tasks, and what moves with them. */
interface TaskRunCrossing {
  readonly entries: readonly unknown[];
  readonly transferList: readonly Transferable[];
}

/** One task of one caller, from the queue to its one outcome. */
export class TaskRun {
  readonly id: number;
  readonly name: string;
  /** A copy where it is small and plain: the task gets what was given at the call. */
  readonly input: unknown;
  readonly #inputMake: Make;
  /** Likewise. */
  readonly context: unknown;
  readonly #contextMake: Make;
  readonly options: RunOptions;
  /** Something of it may be somebody else's, too: it goes in a message of its own. */
  isAlone: boolean;
  /** The number of the message in which it was sent last. */
  message = 0;
  /** Of the caller: what hears of the task runs in the caller's AsyncLocalStorage stores. */
  readonly scope = new AsyncResource("redthread.run");
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
  readonly #callbacks: TaskRunCallbacks;
  #timer: NodeJS.Timeout | undefined;

  constructor(id: number, name: string, input: unknown, options: RunOptions, callbacks: TaskRunCallbacks) {
    this.id = id;
    this.name = name;
    this.options = options;
    this.#callbacks = callbacks;
    const { context, transferList } = options;
    const copiedInput = isPrimitive(input) || transferList ? undefined : copyIfSmall(input); // what is moved is no copy
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

  /** For a message of its own. @throws what the values' getters throw, and where a listed buffer was moved before */
  cross(): TaskRunCrossing {
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

  /** Starts its clock, if it has one. */
  startTimer(giveUp: (run: TaskRun, reason: CancelReason, error: Error) => void): void {
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

  /** Its thread could not read the message that it was alone in; it has not begun. */
  unreadable(): NotCloneableError {
    const { name } = this;
    const path = this.#largest;
    const why = `its thread could not read its ${path}, as where that is nested too deeply`;
    return new NotCloneableError(`task ${name} has not begun: ${why}`, {
      outcome: "not-sent",
      path,
    });
  }

  /** It has ended, and the message with its result could not be read. */
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

  /** Whichever of the two is likely to be at fault, where nothing tells. */
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

/** By name: what is no option here would be left unheeded. */
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
