import type { Transferable } from "node:worker_threads";
import { addParts, copyIfSmall, crossAlone, type Parts, partsAt } from "../common/crossing.js";
import { toErrorData } from "../common/envelope.js";
import { NotCloneableError } from "../common/errors.js";
import { isPrimitive } from "../common/plain.js";
import type { ResultsMessage } from "../common/protocol.js";
import { isTooDeep, uncloneablePath } from "../common/uncloneable.js";

/** A result that moves some of its buffers instead of copying them; made by `transfer`. */
export class Transfer {
  readonly value: unknown;
  readonly list: readonly Transferable[];

  constructor(value: unknown, list: readonly Transferable[]) {
    this.value = value;
    this.list = list;
  }
}

type Post = (message: ResultsMessage, transfer: readonly Transferable[]) => void;

/**
 * Where tasks keep the loop busy for so long, each result leaves at once. With shorter ones it does not pay: every message
 * wakes the main thread, which takes the processor from who computes; with tasks of 1 ms the p99 rose by a third.
 */
const LONG_TASK_MS = 5;
/** Weight of the latest measurement. */
const WEIGHT = 0.2;
const NOTHING: readonly never[] = [];

/**
 * The results on their way to the manager. Small and plain ones are copied when their task ends, and those of a loop turn
 * share a message, unless the tasks of that turn take so long that the first would wait for the others; what no other
 * can join leaves at once. Everything else leaves at once too, in a message of its own, so that no two callers share it.
 */
export class Results {
  readonly #post: Post;
  #done: unknown[] = [];
  #failed: unknown[] = [];
  #parts: unknown[] = [];
  /** Of the tasks in `#done`. */
  #names: string[] = [];
  #scheduled = false;
  #loop = performance.eventLoopUtilization();
  #meanMs = 0;
  #areImmediate: boolean | undefined = true;

  constructor(post: Post) {
    this.#post = post;
  }

  done(id: number, value: unknown, name: string): void {
    if (value instanceof Transfer) this.#sendAlone(id, value.value, name, value.list);
    else if (isPrimitive(value)) this.#add(id, value, name);
    else this.#doneObject(id, value, name);
  }

  failed(id: number, error: unknown): void {
    const data = toErrorData(error);
    const copied = copyIfSmall(data);
    if (!copied) return this.#sendFailure(id, data);
    if (copied.parts) addParts(this.#parts, ~(this.#failed.length + 1), copied.parts);
    this.#failed.push(id, copied.value);
  }

  /** Of one whose result comes next: whether it waited for nothing, where that is known. */
  ended(isImmediate: boolean | undefined): void {
    if (this.#areImmediate !== false && !isImmediate) this.#areImmediate = isImmediate;
  }

  /** Whether the tasks of late have kept the loop busy for long. */
  get areLong(): boolean {
    return this.#meanMs >= LONG_TASK_MS;
  }

  /** At the end of this loop turn, with what else ends in it; or at once. */
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
    const [done, failed, parts, names] = [this.#done, this.#failed, this.#parts, this.#names];
    this.#done = [];
    this.#failed = [];
    this.#parts = [];
    this.#names = [];
    try {
      this.#send({ done, failed, parts });
    } catch {
      // Each of them can be cloned, but not all together: they are too large for one message.
      this.#sendEach(done, failed, parts, names);
    }
    this.#areImmediate = true;
  }

  get #isEmpty(): boolean {
    return this.#done.length === 0 && this.#failed.length === 0;
  }

  #doneObject(id: number, value: unknown, name: string): void {
    const copied = copyIfSmall(value);
    if (!copied) return this.#sendAlone(id, value, name);
    if (copied.parts) addParts(this.#parts, this.#done.length + 1, copied.parts);
    this.#add(id, copied.value, name);
  }

  #add(id: number, value: unknown, name: string): void {
    this.#done.push(id, value);
    this.#names.push(name);
  }

  #sendAlone(id: number, value: unknown, name: string, list: readonly Transferable[] = NOTHING): void {
    try {
      const crossing = crossAlone(value, list);
      const parts: unknown[] = [];
      if (crossing.parts) addParts(parts, 1, crossing.parts);
      this.#send({ done: [id, crossing.value], failed: NOTHING, parts }, crossing.transferList);
    } catch (cause) {
      this.failed(id, notCloneable(name, value, cause, list.length > 0));
    }
    if (this.#isEmpty) this.#areImmediate = true;
  }

  #sendEach(done: readonly unknown[], failed: readonly unknown[], parts: Parts, names: readonly string[]): void {
    for (let i = 0; i < done.length; i += 2) {
      const [id, value] = [done[i] as number, done[i + 1]];
      try {
        this.#send({ done: [id, value], failed: NOTHING, parts: partsAt(parts, i + 1, 1) });
      } catch (cause) {
        this.failed(id, notCloneable(names[i / 2]!, value, cause));
      }
    }
    for (let i = 0; i < failed.length; i += 2) {
      this.#send({ done: NOTHING, failed: [failed[i], failed[i + 1]], parts: partsAt(parts, ~(i + 1), ~1) });
    }
  }

  #sendFailure(id: number, data: unknown): void {
    const parts: unknown[] = [];
    const crossing = crossAlone(data);
    if (crossing.parts) addParts(parts, ~1, crossing.parts);
    this.#send({ done: NOTHING, failed: [id, crossing.value], parts }, crossing.transferList);
    if (this.#isEmpty) this.#areImmediate = true;
  }

  #send(
    { done, failed, parts }: Required<Pick<ResultsMessage, "done" | "failed" | "parts">>,
    transfer: readonly Transferable[] = NOTHING,
  ): void {
    const loop = performance.eventLoopUtilization();
    const busyMs = loop.active - this.#loop.active;
    this.#meanMs += WEIGHT * ((2 * busyMs) / (done.length + failed.length) - this.#meanMs);
    const message: ResultsMessage = { type: "results", done, failed, busyMs, areImmediate: this.#areImmediate };
    this.#post(parts.length > 0 ? { ...message, parts } : message, transfer);
    this.#loop = loop;
  }
}

function notCloneable(name: string, value: unknown, cause: unknown, hasList = false): NotCloneableError {
  const path = uncloneablePath(value, "result") ?? (hasList && !isTooDeep(cause) ? "its transfer list" : "result");
  const why = isTooDeep(cause) ? "is nested too deeply to be cloned" : "cannot be cloned or transferred";
  return new NotCloneableError(`the result of task ${name} cannot be sent to the main thread: ${path} ${why}`, {
    path,
    cause,
  });
}
