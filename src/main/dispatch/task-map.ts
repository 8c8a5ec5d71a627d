import { AsyncResource } from "node:async_hooks";
import { ConfigInvalidError, TaskAbortedError } from "../../core/errors.js";
import { Fifo } from "../../core/fifo.js";
import type { Dispatcher } from "./dispatcher.js";
import { badRunOptions, RUN_OPTIONS, type RunOptions, type TaskRun, type TaskRunCallbacks } from "./task-run.js";

export interface MapOptions extends Omit<RunOptions, "transferList"> {
  /** Results come in the order of their inputs, else as tasks end. Default true. */
  readonly ordered?: boolean | undefined;
  /**
   * How many inputs are taken whose results are not: running, waiting, or waiting to be consumed. It bounds the memory,
   * however many inputs there are. Default: twice what the threads take, which is `threads.concurrency` each, and up to 256
   * each of tasks that wait for nothing and compute for less than 0.5 ms together.
   */
  readonly concurrency?: number | undefined;
  /**
   * "throw" (the default): the first failure is thrown, and the other tasks are given up. "collect": each result comes as a
   * `MapOutcome`, a failure too.
   */
  readonly onError?: "throw" | "collect" | undefined;
}

/** A result of `map` with `onError: "collect"`. `index` is the number of its input. */
export type MapOutcome<T> = PromiseSettledResult<T> & { readonly index: number };

/** One input, from its submission until its result is consumed. */
class MapItem implements TaskRunCallbacks {
  readonly index: number;
  run: TaskRun | undefined;
  status: "fulfilled" | "rejected" | undefined;
  /** Its result, or why it has none. */
  value: unknown;
  readonly #onEnd: (item: MapItem) => void;

  constructor(index: number, onEnd: (item: MapItem) => void) {
    this.index = index;
    this.#onEnd = onEnd;
  }

  resolve(value: unknown): void {
    this.status = "fulfilled";
    this.value = value;
    this.#onEnd(this);
  }

  reject(reason: unknown): void {
    this.status = "rejected";
    this.value = reason;
    this.#onEnd(this);
  }

  get outcome(): MapOutcome<unknown> {
    const { status, value, index } = this;
    return status === "fulfilled" ? { status, value, index } : { status: "rejected", reason: value, index };
  }
}

type Result = IteratorResult<unknown, undefined>;

interface Consumer {
  readonly resolve: (result: Result | Promise<Result>) => void;
  readonly reject: (error: unknown) => void;
}

const DONE: IteratorResult<never, undefined> = { done: true, value: undefined };

/**
 * The results of one task for each input, as an async iterator. Nothing is taken before the first `next()`, and further inputs
 * only as results are consumed. A consumer that leaves early gives up the tasks under way.
 */
export class TaskMap implements AsyncIterableIterator<unknown, undefined> {
  readonly #dispatcher: Dispatcher;
  readonly #inputs: Iterable<unknown> | AsyncIterable<unknown>;
  readonly #options: MapOptions;
  /** Why no more tasks are taken. */
  readonly #refusal: () => Error | undefined;
  /** How many inputs are taken whose results are not. */
  readonly #limit: () => number;
  readonly #submit: (input: unknown, item: MapItem) => TaskRun | undefined;
  /** In the order in which they are consumed: ordered items from their beginning, unordered items once they have ended. */
  readonly #items = new Fifo<MapItem>();
  /** The unordered items that have not ended. */
  readonly #unordered: Set<MapItem> | undefined;
  readonly #onEnd = (item: MapItem): void => this.#ended(item);
  readonly #consumers = new Fifo<Consumer>();
  #source: Iterator<unknown> | AsyncIterator<unknown> | undefined;
  #isAsync = false;
  #isWaiting = false;
  #hasEnded = false;
  #failure: { readonly error: unknown } | undefined;
  #taken = 0;
  #consumed = 0;

  /** `refusal`: why the manager takes no tasks now. */
  constructor(
    dispatcher: Dispatcher,
    threads: number,
    refusal: () => Error | undefined,
    name: string,
    inputs: Iterable<unknown> | AsyncIterable<unknown>,
    options: MapOptions = {},
  ) {
    const bad = badMapOptions(name, options);
    this.#dispatcher = dispatcher;
    this.#inputs = inputs;
    this.#options = options;
    this.#refusal = () => bad ?? refusal() ?? givenUp(name, options);
    this.#limit = () => options.concurrency ?? 2 * threads * dispatcher.taken(name);
    const submit = (input: unknown, item: MapItem): TaskRun | undefined =>
      dispatcher.submit(name, input, options, item);
    // Later tasks are submitted when results come. Tracers and AsyncLocalStorage shall still see them as part of this call.
    this.#submit = AsyncResource.bind(submit);
    if (options.ordered === false) this.#unordered = new Set();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  next(): Promise<Result> {
    this.#start();
    const here = this.#consumers.size === 0 ? this.#shiftEnded() : undefined;
    const consumed = here ? this.#consume(here) : this.#wait();
    this.#fill();
    return consumed;
  }

  /** Gives up the tasks under way. `for await` calls it when its body leaves early. */
  async return(): Promise<Result> {
    this.#end(new Error("the consumer of map() has left"));
    return DONE;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  #start(): void {
    if (this.#source || this.#hasEnded) return;
    const refusal = this.#refusal();
    if (refusal) return this.#fail(refusal);
    const inputs = this.#inputs;
    this.#isAsync = Symbol.asyncIterator in inputs;
    this.#source = Symbol.asyncIterator in inputs ? inputs[Symbol.asyncIterator]() : inputs[Symbol.iterator]();
  }

  /** Takes inputs up to the limit. */
  #fill(): void {
    const limit = this.#limit();
    while (!this.#hasEnded && !this.#isWaiting && this.#taken - this.#consumed < limit) {
      const refusal = this.#refusal();
      if (refusal) return this.#fail(refusal);
      const room = this.#dispatcher.room();
      if (room) return void this.#fillAfter(room);
      try {
        const taken = this.#source!.next();
        if (this.#isAsync) return void this.#fillAfter(this.#takeLater(taken));
        this.#take(taken as IteratorResult<unknown>);
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  async #takeLater(taken: PromiseLike<IteratorResult<unknown>> | IteratorResult<unknown>): Promise<void> {
    this.#take(await taken);
  }

  async #fillAfter(what: Promise<void>): Promise<void> {
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
    if (this.#hasEnded) return; // while an async input was awaited
    if (done) {
      this.#hasEnded = true;
      return this.#serve();
    }
    const item = new MapItem(this.#taken++, this.#onEnd);
    if (this.#unordered) this.#unordered.add(item);
    else this.#items.push(item);
    item.run = this.#submit(value, item);
  }

  #ended(item: MapItem): void {
    if (this.#unordered?.delete(item)) this.#items.push(item);
    this.#serve();
  }

  #shiftEnded(): MapItem | undefined {
    return this.#items.peek()?.status && this.#items.shift();
  }

  #consume(item: MapItem): Promise<Result> {
    this.#consumed++;
    if (this.#options.onError === "collect") return Promise.resolve({ done: false, value: item.outcome });
    if (item.status === "fulfilled") return Promise.resolve({ done: false, value: item.value });
    this.#end(item.value);
    return Promise.reject(item.value);
  }

  #wait(): Promise<Result> {
    const consumed = new Promise<Result>((resolve, reject) => {
      this.#consumers.push({ resolve, reject });
    });
    this.#serve();
    return consumed;
  }

  #serve(): void {
    while (this.#consumers.size > 0) {
      const item = this.#shiftEnded();
      if (!item) break;
      const { resolve } = this.#consumers.shift()!;
      resolve(this.#consume(item));
    }
    if (!this.#hasEnded || this.#items.size > 0 || this.#unordered?.size) return;
    // All results are consumed: the remaining consumers get the end, and the first of them the failure.
    for (let consumer = this.#consumers.shift(); consumer; consumer = this.#consumers.shift()) {
      const failure = this.#failure;
      this.#failure = undefined;
      if (failure) consumer.reject(failure.error);
      else consumer.resolve(DONE);
    }
  }

  /** Takes no more inputs. The results of the inputs before are still consumed. */
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
    this.#failure = undefined;
    const open = [...this.#items, ...(this.#unordered ?? [])];
    while (this.#items.shift());
    this.#unordered?.clear();
    for (const { run } of open) if (run) this.#dispatcher.withdraw(run, reason);
    this.#serve();
  }

  /** Its callers do not wait: an async generator ends only after the value that it is about to give. */
  async #closeSource(): Promise<void> {
    try {
      await this.#source?.return?.();
    } catch {
      // The consumer gets the reason that ended the map.
    }
  }
}

const { transferList: _, ...COMMON } = RUN_OPTIONS;
const MAP_OPTIONS: Readonly<Record<keyof MapOptions, true>> = {
  ...COMMON,
  ordered: true,
  concurrency: true,
  onError: true,
};

function badMapOptions(name: string, options: MapOptions): Error | undefined {
  const bad = badRunOptions(name, options, MAP_OPTIONS);
  if (bad) return bad;
  const { concurrency = 1 } = options;
  if (Number.isInteger(concurrency) && concurrency > 0) return undefined;
  return new ConfigInvalidError(
    `task ${name}: the concurrency of map() must be a positive integer, not ${concurrency}`,
  );
}

/** The error that ends the whole map when its caller's signal is aborted. */
function givenUp(name: string, { signal }: MapOptions): Error | undefined {
  if (!signal?.aborted) return undefined;
  return new TaskAbortedError(`map() of task ${name} was given up by its caller's signal`, {
    outcome: "not-sent",
    cause: signal.reason,
  });
}
