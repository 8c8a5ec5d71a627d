import { Fifo } from "../core/fifo.js";
import { monotonic } from "../core/clock.js";

export interface ConcurrencyLimiterOptions<T> {
  /** Tasks at once. */
  readonly concurrency: number;
  /** Whether tasks of late have kept the loop busy for long. */
  readonly areLong: () => boolean;
  /** Begins a task, which says `left` with the same pass when it has ended. Never throws. */
  readonly begin: (task: T, pass: number) => void;
}

/** After as much in one loop turn results leave, and sockets are served, before more tasks begin. */
const LONG_TURN_MS = 2;
/** After one that waited so many are not watched: the tick that tells costs 4 µs a message, 3 % of what eight callers get. */
const UNWATCHED_TASKS = 255;
const UNWATCHED = -1;
/** Leads to a microtask for less than `queueMicrotask` does. */
const SETTLED = Promise.resolve();

/**
 * Where the tasks of a thread begin: in their order, no more than `concurrency` at once, and in turns of their own once they
 * compute for long. Sees of each whether it waited for anything.
 */
export class ConcurrencyLimiter<T> {
  readonly #concurrency: number;
  readonly #areLong: () => boolean;
  readonly #begin: (task: T, pass: number) => void;
  readonly #queue = new Fifo<T>();
  #inside = 0;
  /** Times that all that could run has run, down to the last microtask. */
  #settlings = 0;
  #isSettling = false;
  /** So many tasks are not watched. */
  #unwatched = 0;
  #turnAt = 0;
  /** The next one begins in another loop turn. */
  #isPausing = false;

  constructor({ concurrency, areLong, begin }: ConcurrencyLimiterOptions<T>) {
    this.#concurrency = concurrency;
    this.#areLong = areLong;
    this.#begin = begin;
  }

  /** It begins with `open`, or when it is its turn. */
  push(task: T): void {
    this.#queue.push(task);
  }

  /** In a loop turn that has just begun. */
  open(): void {
    this.#turnAt = monotonic();
    this.#admit();
  }

  /** Whether a task that has just ended had waited for nothing; undefined where nobody looked. */
  hasNotWaited(pass: number): boolean | undefined {
    if (pass === UNWATCHED) return undefined;
    if (pass === this.#settlings) return true;
    this.#unwatched = UNWATCHED_TASKS;
    return false;
  }

  left(): void {
    this.#inside--;
    if (this.#queue.size > 0) this.#settle();
  }

  get #hasRoom(): boolean {
    return this.#queue.size > 0 && this.#inside < this.#concurrency;
  }

  #admit(): void {
    if (this.#isPausing || !this.#hasRoom) return;
    if (!this.#areLong() && monotonic() - this.#turnAt < LONG_TURN_MS) return this.#admitAll();
    // In another loop turn: else the first results would wait until the last of them has computed.
    this.#isPausing = true;
    setImmediate(this.#resume);
  }

  readonly #resume = (): void => {
    this.#isPausing = false;
    this.#turnAt = monotonic();
    if (!this.#areLong()) return this.#admitAll();
    if (this.#hasRoom) this.#admitOne();
    this.#admit();
  };

  #admitAll(): void {
    while (this.#hasRoom) this.#admitOne();
  }

  #admitOne(): void {
    this.#inside++;
    const isWatched = --this.#unwatched < 0;
    if (isWatched) this.#settle();
    this.#begin(this.#queue.shift()!, isWatched ? this.#settlings : UNWATCHED);
  }

  #settle(): void {
    if (this.#isSettling) return;
    this.#isSettling = true;
    // A tick that is asked for by a microtask comes after all of them.
    void SETTLED.then(this.#askForTick);
  }

  readonly #askForTick = (): void => process.nextTick(this.#settled);

  readonly #settled = (): void => {
    this.#isSettling = false;
    this.#settlings++;
    this.#admit();
  };
}
