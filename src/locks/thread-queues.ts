import { deferred, abortable, waitAtMost } from "../core/waiting.js";
import type { LockTimes } from "./lock-options.js";
import type { Place } from "./record-pool.js";

/** How often and until when a lock may still be passed on, before callers in other threads and processes have their turn. */
export interface Passes {
  readonly left: number;
  /** A time of the shared clock. */
  readonly until: number;
}

/** A lock that its holder has passed on. */
export interface PassedLock {
  readonly place: Place;
  /** Of the next use of the record, with the state HELD. */
  readonly stamp: number;
  readonly key: string | Buffer;
  readonly token: string;
  readonly fence: number;
  readonly passes: Passes;
}

/** How the first caller goes on: with the lock, by asking Redis at once, or by a wait among all threads of the process. */
export type FirstTurn = PassedLock | "ask" | "wait";

interface QueuedCaller {
  readonly times: LockTimes;
  turn: FirstTurn | undefined;
  readonly first: (turn: FirstTurn) => void;
}

/**
 * The callers of one thread that want the same lock, first in, first out. Only the first one asks Redis and the keeper for it.
 * Another one asks Redis once, if its time is over before it comes first.
 */
export class ThreadQueues {
  /** Present while a caller comes first: it holds the lock or asks for it. The others wait behind it. */
  readonly #queues = new Map<string, QueuedCaller[]>();
  readonly #count: (by: number) => void;

  /** `count`: so many callers more wait. */
  constructor(count: (by: number) => void) {
    this.#count = count;
  }

  /** Whether the caller comes first. Then it has to call `next` once. */
  enter(name: string): boolean {
    if (this.#queues.has(name)) return false;
    this.#queues.set(name, []);
    return true;
  }

  /**
   * Waits behind the callers that have come before. Undefined if the time is over. `undo` takes a turn back that came while
   * the signal was aborted.
   * @throws the signal's reason
   */
  async wait(
    name: string,
    times: LockTimes,
    signal: AbortSignal,
    undo: (turn: FirstTurn) => void,
  ): Promise<FirstTurn | undefined> {
    const { promise, resolve } = deferred();
    const caller: QueuedCaller = {
      times,
      turn: undefined,
      first: (turn) => {
        caller.turn = turn;
        resolve();
      },
    };
    const queue = this.#queues.get(name)!;
    queue.push(caller);
    this.#count(1);
    try {
      await abortable(waitAtMost(times.waitMs, promise, 0), signal);
      return caller.turn;
    } catch (error) {
      if (caller.turn) undo(caller.turn);
      throw error;
    } finally {
      resolve(); // ends the timer
      this.#count(-1);
      if (!caller.turn) queue.splice(queue.indexOf(caller), 1);
    }
  }

  /** The next caller comes first, if there is one. */
  next(name: string, turn: FirstTurn): void {
    const caller = this.#queues.get(name)!.shift();
    if (caller) caller.first(turn);
    else this.#queues.delete(name);
  }

  /** The times of the next caller. */
  peek(name: string): LockTimes | undefined {
    return this.#queues.get(name)?.[0]?.times;
  }
}
