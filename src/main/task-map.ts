import { ConfigInvalidError, TaskAbortedError } from "../common/errors.js";
import { Fifo } from "./fifo.js";
import { badRunOptions, type Job, type JobCallbacks, type RunOptions } from "./job.js";

export interface MapOptions extends Omit<RunOptions, "transferList"> {
  /** Results in the order of their inputs, else as they come. Default true. */
  readonly ordered?: boolean;
  /**
   * Inputs that are taken and whose results are not: running, waiting, or waiting to be consumed. Default: twice what
   * the threads run at once. It bounds the memory, however many inputs there are.
   */
  readonly concurrency?: number;
  /**
   * "throw" (the default): the first failure is thrown, the other tasks are given up. "collect": each result comes as a
   * `MapOutcome`, a failure too.
   */
  readonly onError?: "throw" | "collect";
}

/** A result of `map` with `onError: "collect"`; `index` is its input's. */
export type MapOutcome<T> = PromiseSettledResult<T> & { readonly index: number };

export interface TaskMapParts {
  readonly inputs: Iterable<unknown> | AsyncIterable<unknown>;
  readonly options: MapOptions & { readonly concurrency: number };
  readonly submit: (input: unknown, callbacks: JobCallbacks) => Job | undefined;
  readonly withdraw: (job: Job, reason: unknown) => void;
  /** Why no more tasks are taken, if so. */
  readonly refusal: () => Error | undefined;
  /** Resolves when there is room in the queue of tasks; undefined if there is now. */
  readonly room: () => Promise<void> | undefined;
}

interface Slot {
  readonly index: number;
  job: Job | undefined;
  outcome: PromiseSettledResult<unknown> | undefined;
}

interface Consumer {
  readonly resolve: (result: IteratorResult<unknown, undefined>) => void;
  readonly reject: (error: unknown) => void;
}

const DONE: IteratorResult<never, undefined> = { done: true, value: undefined };

/**
 * One task for each input, and their results as an async iterator. Inputs are taken only as results are consumed;
 * nothing is taken before the first `next()`. Whoever leaves early gives up what is under way.
 */
export class TaskMap implements AsyncIterableIterator<unknown, undefined> {
  readonly #parts: TaskMapParts;
  readonly #isOrdered: boolean;
  readonly #limit: number;
  /** To be consumed in this order; in order of inputs they are here from the beginning, else once they have ended. */
  readonly #slots = new Fifo<Slot>();
  readonly #underWay = new Set<Slot>();
  readonly #consumers = new Fifo<Consumer>();
  #source: Iterator<unknown> | AsyncIterator<unknown> | undefined;
  #isAsync = false;
  #isWaiting = false;
  #hasEnded = false;
  #failure: { readonly error: unknown } | undefined;
  #taken = 0;
  #consumed = 0;

  constructor(parts: TaskMapParts) {
    this.#parts = parts;
    this.#isOrdered = parts.options.ordered ?? true;
    this.#limit = parts.options.concurrency;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<IteratorResult<unknown, undefined>> {
    this.#start();
    const consumed = new Promise<IteratorResult<unknown, undefined>>((resolve, reject) => {
      this.#consumers.push({ resolve, reject });
    });
    this.#serve();
    this.#fill();
    return consumed;
  }

  /** Gives up what is under way; `for await` calls it when its body leaves early. */
  async return(): Promise<IteratorResult<unknown, undefined>> {
    this.#end(new Error("the consumer of map() has left"));
    return DONE;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  #start(): void {
    if (this.#source || this.#hasEnded) return;
    const refusal = this.#parts.refusal();
    if (refusal) return this.#fail(refusal);
    const { inputs } = this.#parts;
    this.#isAsync = Symbol.asyncIterator in inputs;
    this.#source = Symbol.asyncIterator in inputs ? inputs[Symbol.asyncIterator]() : inputs[Symbol.iterator]();
  }

  /** Takes inputs until as many are open as may be. */
  #fill(): void {
    while (!this.#hasEnded && !this.#isWaiting && this.#taken - this.#consumed < this.#limit) {
      const refusal = this.#parts.refusal();
      if (refusal) return this.#fail(refusal);
      const room = this.#parts.room();
      if (room) return void this.#wait(room);
      try {
        const taken = this.#source!.next();
        if (this.#isAsync) return void this.#wait(this.#takeLater(taken));
        this.#take(taken as IteratorResult<unknown>);
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  async #takeLater(taken: PromiseLike<IteratorResult<unknown>> | IteratorResult<unknown>): Promise<void> {
    this.#take(await taken);
  }

  async #wait(what: Promise<void>): Promise<void> {
    this.#isWaiting = true;
    try {
      await what;
    } catch (error) {
      this.#fail(error);
    }
    this.#isWaiting = false;
    this.#fill();
  }

  #take({ done, value }: IteratorResult<unknown>): void {
    if (this.#hasEnded) return; // meanwhile
    if (done) {
      this.#hasEnded = true;
      return this.#serve();
    }
    const slot: Slot = { index: this.#taken++, job: undefined, outcome: undefined };
    if (this.#isOrdered) this.#slots.push(slot);
    this.#underWay.add(slot);
    slot.job = this.#parts.submit(value, {
      resolve: (result) => this.#settle(slot, { status: "fulfilled", value: result }),
      reject: (reason) => this.#settle(slot, { status: "rejected", reason }),
    });
  }

  #settle(slot: Slot, outcome: PromiseSettledResult<unknown>): void {
    slot.outcome = outcome;
    if (!this.#underWay.delete(slot)) return; // given up
    if (!this.#isOrdered) this.#slots.push(slot);
    this.#serve();
  }

  #serve(): void {
    const { onError = "throw" } = this.#parts.options;
    while (this.#consumers.size > 0) {
      const slot = this.#slots.peek();
      if (!slot?.outcome) break;
      this.#slots.shift();
      this.#consumed++;
      const { outcome, index } = slot;
      if (onError === "collect") this.#consumers.shift()!.resolve({ done: false, value: { ...outcome, index } });
      else if (outcome.status === "fulfilled") this.#consumers.shift()!.resolve({ done: false, value: outcome.value });
      else {
        this.#consumers.shift()!.reject(outcome.reason);
        this.#end(outcome.reason);
      }
    }
    if (!this.#hasEnded || this.#slots.size > 0 || this.#underWay.size > 0) return;
    // Everything that was taken is consumed.
    for (let consumer = this.#consumers.shift(); consumer; consumer = this.#consumers.shift()) {
      const failure = this.#failure;
      this.#failure = undefined;
      if (failure) consumer.reject(failure.error);
      else consumer.resolve(DONE);
    }
  }

  /** No more inputs; what was taken before is still consumed. */
  #fail(error: unknown): void {
    if (this.#hasEnded) return;
    this.#failure = { error };
    this.#hasEnded = true;
    void this.#closeSource();
    this.#serve();
  }

  #end(reason: unknown): void {
    if (!this.#hasEnded) void this.#closeSource();
    this.#hasEnded = true;
    while (this.#slots.shift());
    const underWay = [...this.#underWay];
    this.#underWay.clear();
    for (const { job } of underWay) if (job) this.#parts.withdraw(job, reason);
    this.#serve();
  }

  /** Not waited for: an async generator ends only after the value that it is about to give. */
  async #closeSource(): Promise<void> {
    try {
      await this.#source?.return?.();
    } catch {
      // What ended the map is what its consumer hears of.
    }
  }
}

export function badMapOptions(name: string, options: MapOptions): Error | undefined {
  const { concurrency = 1 } = options;
  if (Number.isInteger(concurrency) && concurrency > 0) return badRunOptions(name, options);
  return new ConfigInvalidError(
    `task ${name}: the concurrency of map() must be a positive integer, not ${concurrency}`,
  );
}

/** What ends the whole map when its caller's signal is aborted. */
export function givenUp(name: string, { signal }: MapOptions): Error | undefined {
  if (!signal?.aborted) return undefined;
  return new TaskAbortedError(`map() of task ${name} was given up by its caller's signal`, {
    outcome: "not-sent",
    cause: signal.reason,
  });
}
