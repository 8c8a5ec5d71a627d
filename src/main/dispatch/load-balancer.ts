import { monotonic } from "../../core/clock.js";
import type { Thread } from "../threads/thread.js";
import type { Expected } from "./cost-estimator.js";
import type { TaskRun } from "./task-run.js";
import { ThreadWork, tasksTaken } from "./thread-work.js";

/** A loop that is busy for less than this share of the time. */
const IDLE = 0.5;
const NOTHING: Expected = { busyMs: 0, isImmediate: false };

/** What the threads that serve have been given, and which of them is to have the next. */
export class LoadBalancer {
  readonly #concurrency: number;
  readonly #balancer = new Map<Thread, ThreadWork>();

  /** `concurrency`: tasks at once in one thread. */
  constructor(concurrency: number) {
    this.#concurrency = concurrency;
  }

  [Symbol.iterator](): IterableIterator<ThreadWork> {
    return this.#balancer.values();
  }

  of(thread: Thread): ThreadWork | undefined {
    return this.#balancer.get(thread);
  }

  add(thread: Thread): void {
    this.#balancer.set(thread, new ThreadWork(thread, this.#concurrency));
  }

  remove(thread: Thread): void {
    this.#balancer.delete(thread);
  }

  /** How many tasks one of them takes before it has ended any: as many as it runs at once, or more. */
  taken(expected: Expected): number {
    return tasksTaken(expected, this.#concurrency);
  }

  /** The one for a task that is expected to keep its loop busy for as long; undefined while none has room. */
  leastLoaded(expected: Expected): ThreadWork | undefined {
    let least: ThreadWork | undefined;
    for (const work of this.#balancer.values()) if (work.hasRoom(expected) && work.isLessThan(least)) least = work;
    return least;
  }

  /** The one to be set aside for an exclusive task; undefined while each is for another one. */
  leastReserved(): ThreadWork | undefined {
    let least: ThreadWork | undefined;
    for (const work of this.#balancer.values()) if (work.isOpen && work.isLessThan(least)) least = work;
    return least;
  }

  /** Whether a thread is set aside for this job. */
  isReserved(run: TaskRun): boolean {
    for (const work of this) if (work.exclusive === run) return true;
    return false;
  }

  /** More results are in the ports. */
  get areAnswering(): boolean {
    for (const work of this.#balancer.values()) if (work.isAnswering) return true;
    return false;
  }

  /** In how many ms one may be found blocked; from now on is counted how busy their loops are. */
  watch(): number {
    let blockedAt = Infinity;
    for (const work of this) {
      work.thread.loopBusy();
      blockedAt = Math.min(blockedAt, work.blockedAt);
    }
    return blockedAt - monotonic();
  }

  /**
   * Since `watch`: what a blocked thread has not read is taken back, if there is one that has room; and those whose loops were
   * idle may be given as many as they may run, while `refill` runs.
   */
  rebalance(requeue: (runs: readonly TaskRun[]) => void, refill: () => void): void {
    const balancer = [...this];
    for (const work of balancer) {
      if (balancer.some((other) => other !== work && other.hasRoom(NOTHING))) requeue(work.recall());
      work.isWaiting = work.thread.loopBusy() < IDLE;
    }
    refill();
    for (const work of balancer) work.isWaiting = false;
  }
}
