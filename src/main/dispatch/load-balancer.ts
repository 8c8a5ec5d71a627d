import { monotonic } from "../../core/clock.js";
import type { Thread } from "../threads/thread.js";
import type { Expected } from "./cost-estimator.js";
import type { TaskRun } from "./task-run.js";
import { ThreadWork, tasksTaken } from "./thread-work.js";

/** A loop that is busy for less than this share of the time is idle. */
const IDLE = 0.5;
/** While tasks wait for a thread, the threads are looked at this often; else only when one may be found blocked. */
const WATCH_MS = 10;
const NOTHING: Expected = { busyMs: 0, isImmediate: false };

/** The work of each serving thread. Chooses the thread for the next task, and takes tasks back from a blocked thread. */
export class LoadBalancer {
  readonly #concurrency: number;
  readonly #refill: (recalled: readonly TaskRun[]) => void;
  readonly #works = new Map<Thread, ThreadWork>();
  #watching: { readonly timer: NodeJS.Timeout; readonly isQueued: boolean } | undefined;

  /** `concurrency`: tasks at once in one thread. `refill` gives out the recalled runs and the runs that wait. */
  constructor(concurrency: number, refill: (recalled: readonly TaskRun[]) => void) {
    this.#concurrency = concurrency;
    this.#refill = refill;
  }

  [Symbol.iterator](): IterableIterator<ThreadWork> {
    return this.#works.values();
  }

  of(thread: Thread): ThreadWork | undefined {
    return this.#works.get(thread);
  }

  add(thread: Thread): void {
    this.#works.set(thread, new ThreadWork(thread, this.#concurrency));
  }

  remove(thread: Thread): void {
    this.#works.delete(thread);
  }

  /** How many such tasks a thread takes before it has ended any: as many as it runs at once, or more. */
  taken(expected: Expected): number {
    return tasksTaken(expected, this.#concurrency);
  }

  /** The thread for a task with this expectation. Undefined while none has room. */
  leastLoaded(expected: Expected): ThreadWork | undefined {
    let least: ThreadWork | undefined;
    for (const work of this.#works.values()) if (work.hasRoom(expected) && work.isLessThan(least)) least = work;
    return least;
  }

  /** The thread to be reserved for an exclusive task. Undefined while each is reserved for another one. */
  leastReserved(): ThreadWork | undefined {
    let least: ThreadWork | undefined;
    for (const work of this.#works.values()) if (work.isOpen && work.isLessThan(least)) least = work;
    return least;
  }

  isReserved(run: TaskRun): boolean {
    for (const work of this) if (work.exclusive === run) return true;
    return false;
  }

  /** Whether more results are in the ports. */
  get areAnswering(): boolean {
    for (const work of this.#works.values()) if (work.isAnswering) return true;
    return false;
  }

  /**
   * Looks at the threads again a little later, because tasks may be given out better then. A thread that does not read is
   * blocked, and its tasks go to a thread that has room. A thread whose loop is idle while tasks wait for a thread gets as
   * many as it may run, because the expectation can be wrong, and tasks can wait for each other.
   */
  watch(isQueued: boolean): void {
    if (this.#watching && (this.#watching.isQueued || !isQueued)) return;
    clearTimeout(this.#watching?.timer);
    this.#watching = undefined;
    let blockedAt = Infinity;
    for (const work of this) {
      work.thread.loopBusy(); // the next call tells how busy the loop was since now
      blockedAt = Math.min(blockedAt, work.blockedAt);
    }
    if (!isQueued && blockedAt === Infinity) return;
    // Each look wakes the main thread, which costs a lone caller as much as its task.
    const ms = isQueued ? WATCH_MS : Math.max(WATCH_MS, blockedAt - monotonic());
    const timer = setTimeout(() => this.#rebalance(), ms).unref();
    this.#watching = { timer, isQueued };
  }

  #rebalance(): void {
    this.#watching = undefined;
    const works = [...this];
    const recalled: TaskRun[] = [];
    for (const work of works) {
      if (works.some((other) => other !== work && other.hasRoom(NOTHING))) recalled.push(...work.recall());
      work.isWaiting = work.thread.loopBusy() < IDLE;
    }
    this.#refill(recalled);
    for (const work of works) work.isWaiting = false;
  }
}
