import { AsyncResource } from "node:async_hooks";
import { ConfigInvalidError, TaskAbortedError } from "../../core/errors.js";
import { Fifo } from "../../core/fifo.js";
import type { Dispatcher } from "./dispatcher.js";
import { badRunOptions, type TaskRun, type TaskRunCallbacks, RUN_OPTIONS, type RunOptions } from "./task-run.js";

export interface MapOptions extends Omit<RunOptions, "transferList"> {
  /** Results in the order of their inputs, else as they come. Default true. */
  readonly ordered?: boolean | undefined;
  /**
   * Inputs that are taken and whose results are not: running, waiting, or waiting to be consumed. Default: twice what
   * the threads take, which is `threads.concurrency` each, and up to 256 each of tasks that wait for nothing and
   * compute for less than 0.5 ms together. It bounds the memory, however many inputs there are.
   */
  readonly concurrency?: number | undefined;
  /**
   * "throw" (the default): the first failure is thrown, the other tasks are given up. "collect": each result comes as a
   * `MapOutcome`, a failure too.
   */
  readonly onError?: "throw" | "collect" | undefined;
}

/** A result of `map` with `onError: "collect"`; `index` is its input's. */
export type MapOutcome<T> = PromiseSettledResult<T> & { readonly index: number };

export interface TaskMapParts {
  readonly inputs: Iterable<unknown> | AsyncIterable<unknown>;
  readonly options: MapOptions;
  /** Of inputs that are taken and whose results are not. */
  readonly limit: () => number;
  readonly submit: (input: unknown, callbacks: TaskRunCallbacks) => TaskRun | undefined;
  readonly withdraw: (run: TaskRun, reason: unknown) => void;
  /** Why no more tasks are taken, if so. */
  readonly refusal: () => Error | undefined;
  /** Resolves when there is room in the queue of tasks; undefined if there is now. */
  readonly room: () => Promise<void> | undefined;
}

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
 * One task for each input, and their results as an async iterator. Inputs are taken only as results are consumed;
 * nothing is taken before the first `next()`. Whoever leaves early gives up what is under way.
 */
export class TaskMap implements AsyncIterableIterator<unknown, undefined> {
  readonly #parts: TaskMapParts;
  /** To be consumed in this order; in order of inputs they are here from the beginning, else once they have ended. */
  readonly #items = new Fifo<MapItem>();
  /** Of those that are not in `#slots` yet: none where they are there in order of inputs. */
  readonly #unordered: Set<MapItem> | undefined;
  readonly #onEnd = (item: MapItem): void => this.#ended(item);
  #underWay = 0;
  #isAbandoned = false;
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
    if (parts.options.ordered === false) this.#unordered = new Set();
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

  /** Gives up what is under way; `for await` calls it when its body leaves early. */
  async return(): Promise<Result> {
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
    const limit = this.#parts.limit();
    while (!this.#hasEnded && !this.#isWaiting && this.#taken - this.#consumed < limit) {
      const refusal = this.#parts.refusal();
      if (refusal) return this.#fail(refusal);
      const room = this.#parts.room();
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
    if (this.#hasEnded) return; // meanwhile
    if (done) {
      this.#hasEnded = true;
      return this.#serve();
    }
    const item = new MapItem(this.#taken++, this.#onEnd);
    if (this.#unordered) this.#unordered.add(item);
    else this.#items.push(item);
    this.#underWay++;
    item.run = this.#parts.submit(value, item);
  }

  #ended(item: MapItem): void {
    if (this.#isAbandoned) return;
    this.#underWay--;
    if (this.#unordered?.delete(item)) this.#items.push(item);
    this.#serve();
  }

  #shiftEnded(): MapItem | undefined {
    return this.#items.peek()?.status && this.#items.shift();
  }

  /** The turn of one that has ended. */
  #consume(item: MapItem): Promise<Result> {
    this.#consumed++;
    if (this.#parts.options.onError === "collect") return Promise.resolve({ done: false, value: item.outcome });
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
    if (!this.#hasEnded || this.#items.size > 0 || this.#underWay > 0) return;
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
    this.#failure = undefined;
    this.#isAbandoned = true;
    this.#underWay = 0;
    const open = [...this.#items, ...(this.#unordered ?? [])];
    while (this.#items.shift());
    this.#unordered?.clear();
    for (const { run } of open) if (run) this.#parts.withdraw(run, reason);
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

/** `refusal`: why no tasks are taken now, if so. */
export function mapTasks(
  dispatcher: Dispatcher,
  threads: number,
  refusal: () => Error | undefined,
  name: string,
  inputs: TaskMapParts["inputs"],
  options: MapOptions = {},
): TaskMap {
  const bad = badMapOptions(name, options);
  const submit = (input: unknown, callbacks: TaskRunCallbacks): TaskRun | undefined =>
    dispatcher.submit(name, input, options, callbacks);
  return new TaskMap({
    inputs,
    options,
    limit: () => options.concurrency ?? 2 * threads * dispatcher.taken(name),
    // Later tasks are submitted when results come: for tracers and AsyncLocalStorage they belong to this call all the same.
    submit: AsyncResource.bind(submit),
    withdraw: (run, reason) => dispatcher.withdraw(run, reason),
    room: () => dispatcher.room(),
    refusal: () => bad ?? refusal() ?? givenUp(name, options),
  });
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

/** What ends the whole map when its caller's signal is aborted. */
function givenUp(name: string, { signal }: MapOptions): Error | undefined {
  if (!signal?.aborted) return undefined;
  return new TaskAbortedError(`map() of task ${name} was given up by its caller's signal`, {
    outcome: "not-sent",
    cause: signal.reason,
  });
}
