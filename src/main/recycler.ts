import type { Logger } from "../core/log.js";
import { waitAtMost } from "../core/waiting.js";
import type { Dispatcher } from "./dispatch/dispatcher.js";
import type { Thread } from "./threads/thread.js";
import type { Threads } from "./threads/threads.js";

export interface RecyclerOptions {
  readonly count: number;
  readonly maxTasks?: number;
  readonly maxHeapMb?: number;
  readonly closeMs: number;
  readonly threads: Threads;
  readonly dispatcher: Dispatcher;
  readonly logger: Logger;
}

/** A heap can grow while nothing is settled. */
const CHECK_MS = 1_000;
/** What a thread may take beyond its own limit to say that it closed. */
const LATE_MS = 200;

/**
 * Replaces worn threads, one at a time and without failing a task: the replacement comes first, and only when it
 * serves does the worn one get nothing new, finish what it runs, close its clients and exit.
 */
export class Recycler {
  readonly #options: RecyclerOptions;
  readonly #timer: NodeJS.Timeout | undefined;
  #retiring: Thread | undefined;
  #recycled = 0;
  #stopped = false;

  constructor(options: RecyclerOptions) {
    this.#options = options;
    if (options.maxHeapMb !== undefined) this.#timer = setInterval(() => this.#check(), CHECK_MS).unref();
  }

  /** Threads that were replaced so far. */
  get recycled(): number {
    return this.#recycled;
  }

  /** For the shutdown, which closes every thread itself, also one that is being recycled. */
  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
  }

  resultsCame(thread: Thread): void {
    if (!this.#retiring && this.#wear(thread)) this.#check();
  }

  threadReady(): void {
    const worn = this.#retiring;
    if (!worn) this.#check();
    // Not before: with a count of 1 nobody would serve meanwhile, nor at all if the replacement cannot start.
    else if (worn.state === "ready" && this.#ready().length > this.#options.count) void this.#retire(worn);
  }

  threadGone(thread: Thread): void {
    if (thread === this.#retiring) {
      this.#retiring = undefined;
      if (thread.isAskedToClose) this.#recycled++;
    }
    this.#check();
  }

  #check(): void {
    const ready = this.#ready();
    // A thread that is missing, or still starting, comes first.
    if (this.#stopped || this.#retiring || ready.length < this.#options.count) return;
    const worn = ready.find((thread) => this.#wear(thread) !== undefined);
    if (!worn) return;
    this.#retiring = worn;
    worn.isRetiring = true;
    this.#options.logger.info("thread is recycled", { threadId: worn.threadId, ...this.#wear(worn) });
    this.#options.threads.startMissing();
  }

  async #retire(thread: Thread): Promise<void> {
    const { dispatcher, closeMs } = this.#options;
    thread.drain();
    await dispatcher.idle(thread);
    if (this.#stopped || thread.state !== "closing") return; // the shutdown's now, or dead
    thread.close(closeMs, 0);
    await waitAtMost(closeMs + LATE_MS, thread.answered); // then without its answer
    thread.end();
  }

  /** Why the thread is to be replaced, if it is. */
  #wear(thread: Thread): { reason: "maxTasks" | "maxHeapMb"; tasks: number; heapMb: number } | undefined {
    const { maxTasks = Infinity, maxHeapMb = Infinity, dispatcher } = this.#options;
    const { done, failed } = dispatcher.countsOf(thread);
    const tasks = done + failed;
    const heapMb = Math.round(thread.row.get("heapMb"));
    if (tasks >= maxTasks) return { reason: "maxTasks", tasks, heapMb };
    // A heap that was too large before the first task will be so in every replacement: no idle service churns over it.
    return tasks > 0 && heapMb > maxHeapMb ? { reason: "maxHeapMb", tasks, heapMb } : undefined;
  }

  #ready(): Thread[] {
    return [...this.#options.threads].filter(({ state }) => state === "ready");
  }
}
