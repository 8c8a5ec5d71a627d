import type { Config } from "../config/options.js";
import type { Logger } from "../core/log.js";
import { waitAtMost } from "../core/waiting.js";
import type { Dispatcher } from "./dispatch/dispatcher.js";
import type { Thread } from "./threads/thread.js";
import type { Threads } from "./threads/threads.js";

/** How often the heaps are looked at: a heap can grow while no task settles. */
const CHECK_MS = 1_000;
/** How much longer than its own limit a thread may take to say that it closed. */
const LATE_MS = 200;

/**
 * Replaces worn threads, one at a time and without failing a task. The replacement comes first. When it serves, the worn
 * thread gets nothing new, finishes its tasks, closes its clients and exits.
 */
export class Recycler {
  readonly #limits: Config["threads"];
  readonly #closeMs: number;
  readonly #threads: Threads;
  readonly #dispatcher: Dispatcher;
  readonly #logger: Logger;
  readonly #timer: NodeJS.Timeout | undefined;
  #retiring: Thread | undefined;
  #recycled = 0;
  #stopped = false;

  constructor({ threads: limits, shutdown }: Config, threads: Threads, dispatcher: Dispatcher, logger: Logger) {
    this.#limits = limits;
    this.#closeMs = shutdown.closeMs;
    this.#threads = threads;
    this.#dispatcher = dispatcher;
    this.#logger = logger;
    if (limits.maxHeapMb !== undefined) this.#timer = setInterval(() => this.#check(), CHECK_MS).unref();
  }

  /** How many threads were replaced so far. */
  get recycled(): number {
    return this.#recycled;
  }

  /** The shutdown closes every thread itself, also a thread that is being recycled. */
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
    // Not before: with a count of 1 no thread would serve meanwhile, nor ever if the replacement cannot start.
    else if (worn.state === "ready" && this.#threads.serving.length > this.#limits.count) void this.#retire(worn);
  }

  threadGone(thread: Thread): void {
    if (thread === this.#retiring) {
      this.#retiring = undefined;
      if (thread.isAskedToClose) this.#recycled++;
    }
    this.#check();
  }

  #check(): void {
    const { serving } = this.#threads;
    // A thread that is missing, or still starting, comes first.
    if (this.#stopped || this.#retiring || serving.length < this.#limits.count) return;
    const worn = serving.find((thread) => this.#wear(thread) !== undefined);
    if (!worn) return;
    this.#retiring = worn;
    worn.isRetiring = true;
    this.#logger.info("thread is recycled", { threadId: worn.threadId, ...this.#wear(worn) });
    this.#threads.startMissing();
  }

  async #retire(thread: Thread): Promise<void> {
    thread.drain();
    await this.#dispatcher.idle(thread);
    if (this.#stopped || thread.state !== "closing") return; // the shutdown closes it, or it died
    thread.close(this.#closeMs, 0);
    await waitAtMost(this.#closeMs + LATE_MS, thread.answered); // it is ended also without an answer
    thread.end();
  }

  /** Why the thread is to be replaced. Undefined if it is not. */
  #wear(thread: Thread): { reason: "maxTasks" | "maxHeapMb"; tasks: number; heapMb: number } | undefined {
    const { maxTasks = Infinity, maxHeapMb = Infinity } = this.#limits;
    const { done, failed } = this.#dispatcher.countsOf(thread);
    const tasks = done + failed;
    const heapMb = Math.round(thread.row.get("heapMb"));
    if (tasks >= maxTasks) return { reason: "maxTasks", tasks, heapMb };
    // A heap that is too large before the first task is so in every replacement: an idle service would replace without end.
    return tasks > 0 && heapMb > maxHeapMb ? { reason: "maxHeapMb", tasks, heapMb } : undefined;
  }
}
