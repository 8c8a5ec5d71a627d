import type { Transferable } from "node:worker_threads";
import { NotCloneableError } from "../core/errors.js";
import { isPrimitive } from "../core/plain.js";
import { toErrorData } from "../link/error-serialization.js";
import { crossAlone } from "../link/lone-crossing.js";
import { AS_IT_IS, type Make } from "../link/crossing.js";
import type { ErrorData, ResultsMessage } from "../link/protocol.js";
import { copyIfSmall } from "../link/small-copy.js";
import { isTooDeep, uncloneablePath } from "../link/uncloneable.js";

/** A result that moves some of its buffers instead of copying them, made by `transfer`. */
export class Transfer {
  readonly value: unknown;
  readonly list: readonly Transferable[];
  /** Inside a result it would be cloned silently. A function cannot be cloned, and its name shows in the error's path. */
  readonly mustBeTheWholeResult = (): void => {};

  constructor(value: unknown, list: readonly Transferable[]) {
    this.value = value;
    this.list = list;
  }
}

type Post = (message: ResultsMessage, transfer: readonly Transferable[]) => void;

/**
 * Where tasks keep the loop busy for so long, each result leaves at once. With shorter tasks this does not pay: every message
 * wakes the main thread, which takes processor time from the tasks. With tasks of 1 ms the p99 rose by a third.
 */
const LONG_TASK_MS = 5;
/** The weight of the latest measurement. */
const WEIGHT = 0.2;
const NOTHING: readonly never[] = [];

/**
 * Sends results to the manager. Small plain results are copied when their task ends, and the results of a loop turn share a
 * message, unless the tasks take so long that the first result would wait for the others. A result that no other can join
 * leaves at once. A large one leaves at once too, in a message of its own, so that no two callers share what is in it.
 */
export class Results {
  readonly #post: Post;
  #done: unknown[] = [];
  #failed: unknown[] = [];
  /** The names of the tasks in `#done`. */
  #names: string[] = [];
  #scheduled = false;
  #loop = performance.eventLoopUtilization();
  #meanMs = 0;
  /** The share of the busy time until the last message that belongs to results which wait to be sent. */
  #carriedMs = 0;
  #areImmediate: boolean | undefined = true;

  constructor(post: Post) {
    this.#post = post;
  }

  done(id: number, value: unknown, name: string): void {
    if (value instanceof Transfer) this.#sendAlone(id, value.value, name, value.list);
    else if (isPrimitive(value)) this.#add(id, value, AS_IT_IS, name);
    else this.#doneObject(id, value, name);
  }

  failed(id: number, error: unknown): void {
    const data = toErrorData(error);
    const copied = copyIfSmall(data);
    if (copied) this.#failed.push(id, copied.value, copied.make);
    else this.#sendFailure(id, data);
  }

  /** A task has ended, and its result comes next. `isImmediate`: whether it waited for nothing, where that is known. */
  ended(isImmediate: boolean | undefined): void {
    if (this.#areImmediate !== false && !isImmediate) this.#areImmediate = isImmediate;
  }

  /** Whether recent tasks have kept the loop busy for long. */
  get areLong(): boolean {
    return this.#meanMs >= LONG_TASK_MS;
  }

  /** Sends at the end of this loop turn, with what else ends in it; after long tasks at once. */
  flushLater(): void {
    if (this.areLong) return this.flush();
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.flush());
  }

  /** Sends what is waiting, at once. */
  flush(): void {
    this.#scheduled = false;
    if (this.#isEmpty) return;
    const [done, failed, names] = [this.#done, this.#failed, this.#names];
    this.#done = [];
    this.#failed = [];
    this.#names = [];
    try {
      this.#send(done, failed);
    } catch {
      // Each result can be cloned, but together they are too large for one message.
      for (let i = 0; i < done.length; i += 3) this.#sendOne(done.slice(i, i + 3), names[i / 3]!);
      for (let i = 0; i < failed.length; i += 3) this.#send(NOTHING, failed.slice(i, i + 3));
      this.flush(); // a result that could not be sent has become a failure
    }
    this.#areImmediate = true;
  }

  get #isEmpty(): boolean {
    return this.#done.length === 0 && this.#failed.length === 0;
  }

  #doneObject(id: number, value: unknown, name: string): void {
    const copied = copyIfSmall(value);
    if (copied) this.#add(id, copied.value, copied.make, name);
    else this.#sendAlone(id, value, name);
  }

  #add(id: number, value: unknown, make: Make, name: string): void {
    this.#done.push(id, value, make);
    this.#names.push(name);
  }

  #sendAlone(id: number, value: unknown, name: string, list: readonly Transferable[] = NOTHING): void {
    try {
      const crossing = crossAlone(value, list);
      this.#send([id, crossing.value, crossing.make], NOTHING, crossing.transferList);
    } catch (cause) {
      this.failed(id, notCloneable(name, value, cause, list.length > 0));
    }
    if (this.#isEmpty) this.#areImmediate = true;
  }

  #sendFailure(id: number, data: ErrorData): void {
    try {
      const { value, make, transferList } = crossAlone(data);
      this.#send(NOTHING, [id, value, make], transferList);
    } catch {
      // Its fields could be cloned a moment ago and cannot now: a getter among them changed its value.
      const { name, message } =
        "thrown" in data ? { name: "Error", message: "what was thrown cannot be cloned" } : data;
      this.#failed.push(id, { name, message, fields: {} } satisfies ErrorData, AS_IT_IS);
    }
    if (this.#isEmpty) this.#areImmediate = true;
  }

  #sendOne(done: readonly unknown[], name: string): void {
    try {
      this.#send(done, NOTHING);
    } catch (cause) {
      this.failed(done[0] as number, notCloneable(name, done[1], cause));
    }
  }

  #send(done: readonly unknown[], failed: readonly unknown[], transfer: readonly Transferable[] = NOTHING): void {
    const loop = performance.eventLoopUtilization();
    const sent = done.length + failed.length;
    const all = sent + this.#done.length + this.#failed.length;
    // Results that are not sent yet get their share of the busy time.
    const busyMs = (loop.active - this.#loop.active + this.#carriedMs) * (sent / all);
    this.#carriedMs = busyMs * (all / sent - 1);
    this.#meanMs += WEIGHT * ((3 * busyMs) / sent - this.#meanMs);
    this.#post({ type: "results", done, failed, busyMs, areImmediate: this.#areImmediate }, transfer);
    this.#loop = loop;
  }
}

function notCloneable(name: string, value: unknown, cause: unknown, hasList = false): NotCloneableError {
  const path = uncloneablePath(value, "result") ?? (hasList && !isTooDeep(cause) ? "its transfer list" : "result");
  const why = isTooDeep(cause) ? "is nested too deeply to be cloned" : "cannot be cloned or transferred";
  return new NotCloneableError(`the result of task ${name} cannot be sent to the main thread: ${path} ${why}`, {
    outcome: "unknown",
    path,
    cause,
  });
}
