import type { AsyncResource } from "node:async_hooks";
import { randomBytes } from "node:crypto";
import { types } from "node:util";
import { type TaskMessage, taskChannel, Trace } from "../../core/channels.js";
import { deferred, type Deferred } from "../../core/deferred.js";
import { QueueFullError, type Outcome } from "../../core/errors.js";
import { errorCode, type Logger } from "../../core/log.js";
import { fromErrorData, sameError } from "../../link/error-serialization.js";
import { type Make, restored } from "../../link/make.js";
import type { AuditedMessage, CancelReason, ErrorData, ReportMessage, ResultsMessage } from "../../link/protocol.js";
import type { Thread } from "../threads/thread.js";
import { AbortWatch } from "./abort-watch.js";
import { Pace } from "./cost-estimator.js";
import { Loads } from "./load-balancer.js";
import { TaskQueue } from "./task-queue.js";
import { Job, type JobCallbacks, type RunOptions } from "./task-run.js";
import type { Load } from "./thread-work.js";

export interface DispatcherOptions {
  /** Of the manager, for who listens to `redthread:task`. */
  readonly manager: number;
  /** Tasks at once in one thread. */
  readonly concurrency: number;
  readonly maxQueue: number;
  /** Between aborting a task's signal and ending its thread. */
  readonly cancelGraceMs: number;
  readonly logger: Logger;
}

/** Of all tasks so far, by what their callers heard. */
export type TaskTally = {
  readonly done: number;
  /** Ended by an error of their own. */
  readonly failed: number;
  /** Rejected on the way: by timeout, signal, shutdown, or the death of their thread. */
  readonly abandoned: number;
  /** Not taken: the queue was full. */
  readonly refused: number;
};

/** While tasks wait for a thread; else a thread is looked at only when it may be found blocked. */
const WATCH_MS = 10;
/** Between `run()` and the threads: queues, deals out to the least loaded, and settles every task exactly once. */
export class Dispatcher {
  /** Random once, so that a task's id is unique over managers and processes at the cost of a number. */
  readonly taskPrefix = `${randomBytes(12).toString("hex")}-`;
  readonly #manager: number;
  readonly #maxQueue: number;
  readonly #cancelGraceMs: number;
  readonly #logger: Logger;
  readonly #queue = new TaskQueue();
  readonly #pace = new Pace();
  readonly #loads: Loads;
  readonly #aborts = new AbortWatch<Job>((job, reason) => this.#abort(job, job.aborted(reason)));
  /** Of the queue, those whose callers still wait; reserved ones are no longer in it. */
  #queued = 0;
  #ids = 0;
  #pumping = false;
  #watching: { readonly timer: NodeJS.Timeout; readonly isQueued: boolean } | undefined;
  #room: Deferred<void> | undefined;
  #onDrained: (() => void) | undefined;
  #aborted: ((outcome: Outcome, cause?: unknown) => Error) | undefined;
  #done = 0;
  #failed = 0;
  #abandoned = 0;
  #refused = 0;

  constructor({ manager, concurrency, maxQueue, cancelGraceMs, logger }: DispatcherOptions) {
    this.#manager = manager;
    this.#loads = new Loads(concurrency);
    this.#maxQueue = maxQueue;
    this.#cancelGraceMs = cancelGraceMs;
    this.#logger = logger;
  }

  /** Tasks that wait for a thread. */
  get size(): number {
    return this.#queued;
  }

  get maxQueue(): number {
    return this.#maxQueue;
  }

  get tally(): TaskTally {
    return { done: this.#done, failed: this.#failed, abandoned: this.#abandoned, refused: this.#refused };
  }

  countsOf(thread: Thread): { running: number; done: number; failed: number } {
    const load = this.#loads.of(thread);
    return { running: load?.size ?? 0, done: load?.done ?? 0, failed: load?.failed ?? 0 };
  }

  run(name: string, input: unknown, options: RunOptions): Promise<unknown> {
    return new Promise((resolve, reject) => this.submit(name, input, options, { resolve, reject }));
  }

  /** As `run`, for those who need no promise. */
  submit(name: string, input: unknown, options: RunOptions, callbacks: JobCallbacks): Job | undefined {
    if (this.#queued >= this.#maxQueue) {
      this.#refused++;
      callbacks.reject(this.#queueFull(name));
      return undefined;
    }
    const job = new Job(++this.#ids, name, input, options, callbacks);
    const { signal } = options;
    if (signal?.aborted) job.fail(job.aborted(signal.reason));
    else if (taskChannel.hasSubscribers) this.#trace(job, callbacks).start(() => this.#accept(job));
    else this.#accept(job);
    return job;
  }

  /** How many tasks of this name a thread takes before it has ended any: as many as it runs at once, or more. */
  taken(name: string): number {
    return this.#loads.taken(this.#pace.of(name));
  }

  /** Resolves when the queue has room; undefined if it has. */
  room(): Promise<void> | undefined {
    if (this.#queued < this.#maxQueue) return undefined;
    return (this.#room ??= deferred()).promise;
  }

  /** Gives a job up, wherever it is. */
  withdraw(job: Job, reason: unknown): void {
    if (!job.settled) this.#giveUp(job, "aborted", job.aborted(reason));
  }

  threadReady(thread: Thread): void {
    this.#loads.add(thread);
    this.#schedule();
  }

  /** What the thread had read is lost with it; the rest goes elsewhere. */
  threadGone(thread: Thread, reason: Error): void {
    const load = this.#loads.of(thread);
    if (!load) return;
    this.#loads.remove(thread);
    const reserved = load.exclusive;
    const unread = load.unread().filter(({ options }) => !options.transferList); // what was moved there is gone
    for (const job of unread) load.remove(job);
    for (const job of load.jobs) this.#abandon(job, sameError(reason));
    if (reserved && !reserved.thread) unread.push(reserved);
    this.#requeue(unread);
    load.onIdle?.();
    this.#schedule();
    this.#checkDrained();
  }

  results(thread: Thread, { done, failed, busyMs, areImmediate }: ResultsMessage): void {
    const load = this.#loads.of(thread);
    if (!load) return;
    load.answers++;
    const names = new Set<string>();
    for (let i = 0; i < done.length; i += 3) {
      const job = this.#ended(load, done[i] as number, names);
      if (!job) continue;
      load.done++;
      if (job.finish(restored(done[i + 1], done[i + 2] as Make))) this.#done++;
    }
    for (let i = 0; i < failed.length; i += 3) {
      const job = this.#ended(load, failed[i] as number, names);
      if (!job) continue;
      load.failed++;
      this.#fail(job, restored(failed[i + 1], failed[i + 2] as Make) as ErrorData);
    }
    this.#pace.measured(names, busyMs / ((done.length + failed.length) / 3), areImmediate);
    this.#schedule(); // room now
    this.#checkDrained();
  }

  /** To a caller that still waits for the task. A listener that throws, or rejects, gives it up with its own error. */
  report(thread: Thread, { id, value, make }: ReportMessage): void {
    const job = this.#loads.of(thread)?.get(id);
    if (!job?.options.onReport || job.settled) return;
    job.scope.runInAsyncScope(() => this.#tell(job, restored(value, make)));
  }

  /** Of the caller whose task says something; undefined where nobody waits for it. */
  scopeOf(thread: Thread, job: number): AsyncResource | undefined {
    return this.#loads.of(thread)?.get(job)?.scope;
  }

  /** The thread could not read that message. Of several tasks each is sent again, alone, so that only the culprit rejects. */
  unreadable(thread: Thread, message: number): void {
    const jobs = this.#loads.of(thread)?.takeBack(message) ?? [];
    const [first] = jobs;
    if (first && jobs.length === 1) this.#abandon(first, first.unreadable());
    else {
      for (const job of jobs) job.isAlone = true;
      this.#requeue(jobs);
    }
    this.#schedule();
    this.#checkDrained();
  }

  /** After a message of the thread that could not be read: whose results were in it? */
  audited(thread: Thread, audit: AuditedMessage): void {
    const lost = this.#loads.of(thread)?.takeLost(audit) ?? [];
    this.#logger.error("a message of a thread could not be read", { threadId: thread.threadId, results: lost.length });
    for (const job of lost) this.#abandon(job, job.resultUnreadable());
    this.#schedule();
    this.#checkDrained();
  }

  /** Rejects what waits for a thread. */
  failQueued(error: Error): void {
    for (const job of this.#queue.drain()) this.#abandon(job, sameError(error));
    this.#queued = 0;
    for (const load of this.#loads) {
      const reserved = load.exclusive;
      if (!reserved || reserved.thread) continue;
      load.exclusive = undefined;
      this.#abandon(reserved, sameError(error));
    }
    this.#checkDrained();
  }

  /** What waits is rejected, and what runs is about to be aborted: a task that fails from now on failed because of it. */
  giveUp(aborted: (outcome: Outcome, cause?: unknown) => Error): void {
    this.#aborted = aborted;
    this.failQueued(aborted("not-sent"));
  }

  /** Resolves when nothing waits and nothing runs, also nothing whose caller was already rejected. */
  drained(): Promise<void> {
    return new Promise((resolve) => {
      this.#onDrained = resolve;
      this.#checkDrained();
    });
  }

  /** Resolves when a thread that gets nothing new has ended what it runs and what is reserved for it, or is gone. */
  idle(thread: Thread): Promise<void> {
    const load = this.#loads.of(thread);
    if (!load) return Promise.resolve();
    return new Promise((resolve) => {
      load.onIdle = resolve;
      this.#schedule();
    });
  }

  #tell(job: Job, value: unknown): void {
    try {
      const heard: unknown = job.options.onReport?.(value);
      if (types.isPromise(heard)) heard.catch((error: unknown) => this.#listenerRejected(job, error));
    } catch (error) {
      this.#giveUp(job, "aborted", error as Error);
    }
  }

  #listenerRejected(job: Job, error: unknown): void {
    const { id, name } = job;
    // Logged also where the task has settled meanwhile, and nobody else hears of it.
    this.#logger.error("an onReport listener rejected", {
      taskId: this.taskPrefix + id,
      task: name,
      code: errorCode(error),
    });
    if (!job.settled) this.#giveUp(job, "aborted", error as Error);
  }

  #trace(job: Job, { index }: JobCallbacks): Trace<TaskMessage> {
    const numbered = index === undefined ? {} : { index };
    const message: TaskMessage = {
      manager: this.#manager,
      taskId: this.taskPrefix + job.id,
      task: job.name,
      ...numbered,
    };
    return (job.trace = new Trace(taskChannel, message));
  }

  #accept(job: Job): void {
    const { signal } = job.options;
    if (signal) {
      this.#aborts.add(signal, job);
      job.onSettled = () => this.#aborts.delete(signal, job);
    }
    job.startTimer(this.#giveUp);
    this.#queue.push(job);
    this.#queued++;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    // All that this turn's callers ask for leaves together, one message per thread: a tick comes after the promises
    // that these results have settled, the turn's end also after those that are in the ports already. Answered one by one,
    // small messages would come one by one for ever.
    if (this.#loads.areAnswering) setImmediate(this.#pumpNow);
    else process.nextTick(this.#pumpNow);
  }

  readonly #pumpNow = (): void => {
    this.#pumping = false;
    this.#pump();
  };

  /**
   * What was dealt out may be dealt better a little later: a thread that does not read is blocked, and its
   * tasks go to another that has room; one whose loop is idle while tasks wait for it is given as many as it may run,
   * for a mean can be wrong, and tasks can wait for each other.
   */
  #watch(): void {
    const isQueued = this.#queued > 0;
    if (this.#watching && (this.#watching.isQueued || !isQueued)) return;
    clearTimeout(this.#watching?.timer);
    this.#watching = undefined;
    const blockedMs = this.#loads.watch();
    if (!isQueued && blockedMs === Infinity) return;
    // Each time it is due it wakes the main thread, which costs a lone caller as much as his task.
    const ms = isQueued ? WATCH_MS : Math.max(WATCH_MS, blockedMs);
    const timer = setTimeout(() => {
      this.#watching = undefined;
      this.#loads.rebalance(
        (jobs) => this.#requeue(jobs),
        () => this.#pump(),
      );
    }, ms).unref();
    this.#watching = { timer, isQueued };
  }

  #pump(): void {
    for (const load of this.#loads) load.listen();
    for (let job = this.#queue.peek(); job; job = this.#queue.peek()) {
      const expected = this.#pace.of(job.name);
      const load = job.options.exclusive ? this.#loads.leastReserved() : this.#loads.leastLoaded(expected);
      if (!load) break;
      this.#queue.shift();
      this.#queued--;
      if (job.options.exclusive) load.exclusive = job;
      else load.give(job, expected);
    }
    for (const load of this.#loads) {
      this.#startExclusive(load);
      load.post(this.#refuse);
      if (load.size === 0 && !load.exclusive) load.onIdle?.();
    }
    this.#watch();
    if (this.#queued >= this.#maxQueue) return;
    this.#room?.resolve();
    this.#room = undefined;
  }

  #startExclusive(load: Load): void {
    const job = load.exclusive;
    if (!job || job.thread) return; // none, or it runs
    if (!job.settled) {
      if (load.size === 0) load.give(job, this.#pace.of(job.name));
      return;
    }
    load.exclusive = undefined;
    this.#schedule();
  }

  /** It cannot be cloned. */
  readonly #refuse = (job: Job, cause: unknown): void => {
    this.#abandon(job, job.notCloneable(cause));
    this.#schedule();
    this.#checkDrained();
  };

  /** Before all others of their names. */
  #requeue(jobs: readonly Job[]): void {
    for (const job of jobs.toReversed()) {
      if (job.settled) continue;
      if (this.#aborted) {
        this.#abandon(job, this.#aborted("not-sent"));
        continue;
      }
      job.thread = undefined;
      const { signal } = job.options;
      if (signal?.aborted) {
        this.#abandon(job, job.aborted(signal.reason)); // it was to await its outcome, and has begun nowhere
        continue;
      }
      this.#queue.unshift(job);
      this.#queued++;
    }
  }

  #ended(load: Load, id: number, names: Set<string>): Job | undefined {
    const job = load.get(id);
    if (!job) return undefined;
    load.remove(job);
    names.add(job.name);
    return job;
  }

  #abort(job: Job, error: Error): void {
    if (job.options.awaitOutcome && job.thread) this.#cancel(job, job.thread, "aborted", error);
    else this.#giveUp(job, "aborted", error);
  }

  /** The caller is told at once; a task that runs already keeps its place in the thread until it has ended. */
  readonly #giveUp = (job: Job, reason: CancelReason, error: Error): void => {
    if (job.thread) this.#cancel(job, job.thread, reason, error);
    else if (!this.#loads.isReserved(job)) this.#queued--;
    this.#abandon(job, error);
    this.#schedule(); // a thread set aside for it is free again
    this.#checkDrained();
  };

  #fail(job: Job, data: ErrorData): void {
    const error = fromErrorData(data);
    if (this.#aborted) this.#abandon(job, this.#aborted("unknown", error));
    else if (job.fail(error)) this.#failed++;
  }

  /**
   * Aborts the task's signal. After the grace its caller has waited long enough, and a thread that cannot even hear of it,
   * or has nothing else to do, is ended. What that has not read has not begun.
   */
  #cancel(job: Job, thread: Thread, reason: CancelReason, error: Error): void {
    const { id, options } = job;
    const why: unknown = options.signal?.reason;
    const cancelled = thread.post({ type: "cancel", id, reason, why: typeof why === "string" ? why : undefined });
    setTimeout(() => {
      const load = this.#loads.of(thread);
      const isDeaf = !thread.hasHeard(cancelled);
      if (load && isDeaf) {
        this.#requeue(load.recall());
        this.#schedule();
        this.#checkDrained();
      }
      this.#abandon(job, error);
      if (options.cancel === "cooperative" || !load?.get(id)) return;
      if (options.exclusive || isDeaf) thread.end(error);
    }, this.#cancelGraceMs).unref();
  }

  #abandon(job: Job, error: Error): void {
    if (job.fail(error)) this.#abandoned++;
  }

  #checkDrained(): void {
    if (!this.#onDrained || this.#queued > 0) return;
    for (const { size, exclusive } of this.#loads) {
      if (size > 0 || (exclusive && !exclusive.settled)) return;
    }
    this.#onDrained();
  }

  #queueFull(name: string): QueueFullError {
    return new QueueFullError(`${this.#queued} tasks are waiting already (queue.max): task ${name} was not taken`, {
      outcome: "refused",
      queued: this.#queued,
    });
  }
}
