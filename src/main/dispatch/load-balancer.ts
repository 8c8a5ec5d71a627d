import { monotonic } from "../../core/time.js";
import type { Thread } from "../threads/thread.js";
import type { Expected } from "./cost-estimator.js";
import type { Job } from "./task-run.js";
import { Load, tasksTaken } from "./thread-work.js";

/** A loop that is busy for less than this share of the time. */
const IDLE = 0.5;
const NOTHING: Expected = { busyMs: 0, isImmediate: false };

/** What the threads that serve have been given, and which of them is to have the next. */
export class Loads {
  readonly #concurrency: number;
  readonly #loads = new Map<Thread, Load>();

  /** `concurrency`: tasks at once in one thread. */
  constructor(concurrency: number) {
    this.#concurrency = concurrency;
  }

  [Symbol.iterator](): IterableIterator<Load> {
    return this.#loads.values();
  }

  of(thread: Thread): Load | undefined {
    return this.#loads.get(thread);
  }

  add(thread: Thread): void {
    this.#loads.set(thread, new Load(thread, this.#concurrency));
  }

  remove(thread: Thread): void {
    this.#loads.delete(thread);
  }

  /** How many tasks one of them takes before it has ended any: as many as it runs at once, or more. */
  taken(expected: Expected): number {
    return tasksTaken(expected, this.#concurrency);
  }

  /** The one for a task that is expected to keep its loop busy for as long; undefined while none has room. */
  leastLoaded(expected: Expected): Load | undefined {
    let least: Load | undefined;
    for (const load of this.#loads.values()) if (load.hasRoom(expected) && load.isLessThan(least)) least = load;
    return least;
  }

  /** The one to be set aside for an exclusive task; undefined while each is for another one. */
  leastReserved(): Load | undefined {
    let least: Load | undefined;
    for (const load of this.#loads.values()) if (load.isOpen && load.isLessThan(least)) least = load;
    return least;
  }

  /** Whether a thread is set aside for this job. */
  isReserved(job: Job): boolean {
    for (const load of this) if (load.exclusive === job) return true;
    return false;
  }

  /** More results are in the ports. */
  get areAnswering(): boolean {
    for (const load of this.#loads.values()) if (load.isAnswering) return true;
    return false;
  }

  /** In how many ms one may be found blocked; from now on is counted how busy their loops are. */
  watch(): number {
    let blockedAt = Infinity;
    for (const load of this) {
      load.thread.loopBusy();
      blockedAt = Math.min(blockedAt, load.blockedAt);
    }
    return blockedAt - monotonic();
  }

  /**
   * Since `watch`: what a blocked thread has not read is taken back, if there is one that has room; and those whose loops were
   * idle may be given as many as they may run, while `refill` runs.
   */
  rebalance(requeue: (jobs: readonly Job[]) => void, refill: () => void): void {
    const loads = [...this];
    for (const load of loads) {
      if (loads.some((other) => other !== load && other.hasRoom(NOTHING))) requeue(load.recall());
      load.isWaiting = load.thread.loopBusy() < IDLE;
    }
    refill();
    for (const load of loads) load.isWaiting = false;
  }
}
