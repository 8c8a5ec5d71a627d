import { Fifo } from "../core/fifo.js";
import { monotonic } from "../core/clock.js";

/** After so long a loop turn, results leave and sockets are served before more tasks begin. */
const LONG_TURN_MS = 2;
/** So many tasks after a task that waited are not watched, because the tick costs 4 µs a message, 3 % with eight callers. */
const UNWATCHED_TASKS = 255;
const UNWATCHED = -1;
/** A microtask by way of this costs less than by `queueMicrotask`. */
const SETTLED = Promise.resolve();

/**
 * Begins the tasks of a thread in their order, no more than `concurrency` at once, and each in a loop turn of its own once
 * tasks compute for long. Tells of each watched task whether it waited for anything.
 */
export class ConcurrencyLimiter<T> {
  readonly #concurrency: number;
  /** Whether recent tasks have kept the loop busy for long. */
  readonly #areLong: () => boolean;
  /** Begins a task, whose end calls `hasNotWaited` with this pass and then `left`. Never throws. */
  readonly #begin: (task: T, pass: number) => void;
  readonly #queue = new Fifo<T>();
  #inside = 0;
  /** How often everything that could run has run, down to the last microtask. */
  #settlings = 0;
  #isSettling = false;
  /** How many of the next tasks are not watched. */
  #unwatched = 0;
  #turnAt = 0;
  /** The next task begins in another loop turn. */
  #isPausing = false;

  constructor(concurrency: number, areLong: () => boolean, begin: (task: T, pass: number) => void) {
    this.#concurrency = concurrency;
    this.#areLong = areLong;
    this.#begin = begin;
  }

  /** The task begins with `open`, or when its turn comes. */
  push(task: T): void {
    this.#queue.push(task);
  }

  /** Called in a loop turn that has just begun. */
  open(): void {
    this.#turnAt = monotonic();
    this.#admit();
  }

  /** Whether a task that has just ended had waited for nothing; undefined if it was not watched. */
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
    // In another loop turn, because otherwise the first results would wait until the last task has computed.
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
    // A tick that a microtask asks for comes after all microtasks.
    void SETTLED.then(this.#askForTick);
  }

  readonly #askForTick = (): void => process.nextTick(this.#settled);

  readonly #settled = (): void => {
    this.#isSettling = false;
    this.#settlings++;
    this.#admit();
  };
}
