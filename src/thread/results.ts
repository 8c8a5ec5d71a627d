import type { Transferable } from "node:worker_threads";
import { toErrorData, uncloneablePath } from "../common/envelope.js";
import { NotCloneableError } from "../common/errors.js";
import type { ResultsMessage } from "../common/protocol.js";

/** A result that moves some of its buffers instead of copying them; made by `transfer`. */
export class Transfer {
  readonly value: unknown;
  readonly list: readonly Transferable[];

  constructor(value: unknown, list: readonly Transferable[]) {
    this.value = value;
    this.list = list;
  }
}

type Post = (message: ResultsMessage, transfer: readonly Transferable[] | undefined) => void;

/**
 * Where tasks keep the loop busy for so long, each result leaves at once. With shorter ones it does not pay: every message
 * wakes the main thread, which takes the processor from who computes; with tasks of 1 ms the p99 rose by a third.
 */
const LONG_TASK_MS = 5;
/** Weight of the latest measurement. */
const WEIGHT = 0.2;

/**
 * The results on their way to the manager: those of a loop turn share a message, unless the tasks of that turn take so long
 * that the first would wait for the others; what no other can join leaves at once.
 */
export class Results {
  readonly #post: Post;
  #done: unknown[] = [];
  #failed: unknown[] = [];
  #scheduled = false;
  #loop = performance.eventLoopUtilization();
  #meanMs = 0;
  #areImmediate: boolean | undefined = true;

  constructor(post: Post) {
    this.#post = post;
  }

  done(id: number, value: unknown, name: string): void {
    if (!(value instanceof Transfer)) return void this.#done.push(id, value);
    this.#sendAlone(id, value.value, name, value.list);
    if (this.#isEmpty) this.#areImmediate = true;
  }

  failed(id: number, error: unknown): void {
    this.#failed.push(id, toErrorData(error));
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
    const done = this.#done;
    const failed = this.#failed;
    if (this.#isEmpty) return;
    this.#done = [];
    this.#failed = [];
    try {
      this.#send(done, failed);
    } catch {
      // One of them cannot be cloned; alone, each shows whether it is the one.
      if (failed.length > 0) this.#send([], failed);
      for (let i = 0; i < done.length; i += 2) this.#sendAlone(done[i] as number, done[i + 1], `#${String(done[i])}`);
    }
    this.#areImmediate = true;
  }

  get #isEmpty(): boolean {
    return this.#done.length === 0 && this.#failed.length === 0;
  }

  #sendAlone(id: number, value: unknown, name: string, transfer?: readonly Transferable[]): void {
    try {
      this.#send([id, value], [], transfer);
    } catch (cause) {
      const path = uncloneablePath(value, "result") ?? "its transfer list";
      const error = new NotCloneableError(
        `the result of task ${name} cannot be sent to the main thread: ${path} cannot be cloned or transferred`,
        { path, cause },
      );
      this.#send([], [id, toErrorData(error)]);
    }
  }

  #send(done: readonly unknown[], failed: readonly unknown[], transfer?: readonly Transferable[]): void {
    const loop = performance.eventLoopUtilization();
    const busyMs = loop.active - this.#loop.active;
    this.#meanMs += WEIGHT * ((2 * busyMs) / (done.length + failed.length) - this.#meanMs);
    this.#post({ type: "results", done, failed, busyMs, areImmediate: this.#areImmediate }, transfer);
    this.#loop = loop;
  }
}
