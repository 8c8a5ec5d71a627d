import type { AsyncResource } from "node:async_hooks";
import { randomBytes } from "node:crypto";
import { types } from "node:util";
import { type TaskMessage, taskChannel, Trace } from "../../core/channels.js";
import { type Deferred, deferred } from "../../core/waiting.js";
import { QueueFullError, type Outcome } from "../../core/errors.js";
import { errorCode, type Logger } from "../../core/log.js";
import { fromErrorData, sameError } from "../../link/error-serialization.js";
import { type Make, restored } from "../../link/make.js";
import type { AuditedMessage, CancelReason, ErrorData, ReportMessage, ResultsMessage } from "../../link/protocol.js";
import type { Thread } from "../threads/thread.js";
import { AbortWatch } from "./abort-watch.js";
import { CostEstimator } from "./cost-estimator.js";
import { LoadBalancer } from "./load-balancer.js";
import { TaskQueue } from "./task-queue.js";
import { TaskRun, type TaskRunCallbacks, type RunOptions } from "./task-run.js";
import type { ThreadWork } from "./thread-work.js";

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
  readonly #costs = new CostEstimator();
  readonly #balancer: LoadBalancer;
  readonly #aborts = new AbortWatch<TaskRun>((run, reason) => this.#abort(run, run.aborted(reason)));
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
    this.#balancer = new LoadBalancer(concurrency);
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
    const work = this.#balancer.of(thread);
    return { running: work?.size ?? 0, done: work?.done ?? 0, failed: work?.failed ?? 0 };
  }

  run(name: string, input: unknown, options: RunOptions): Promise<unknown> {
    return new Promise((resolve, reject) => this.submit(name, input, options, { resolve, reject }));
  }

  /** As `run`, for those who need no promise. */
  submit(name: string, input: unknown, options: RunOptions, callbacks: TaskRunCallbacks): TaskRun | undefined {
    if (this.#queued >= this.#maxQueue) {
      this.#refused++;
      callbacks.reject(this.#queueFull(name));
      return undefined;
    }
    const run = new TaskRun(++this.#ids, name, input, options, callbacks);
    const { signal } = options;
    if (signal?.aborted) run.fail(run.aborted(signal.reason));
    else if (taskChannel.hasSubscribers) this.#trace(run, callbacks).start(() => this.#accept(run));
    else this.#accept(run);
    return run;
  }

  /** How many tasks of this name a thread takes before it has ended any: as many as it runs at once, or more. */
  taken(name: string): number {
    return this.#balancer.taken(this.#costs.of(name));
  }

  /** Resolves when the queue has room; undefined if it has. */
  room(): Promise<void> | undefined {
    if (this.#queued < this.#maxQueue) return undefined;
    return (this.#room ??= deferred()).promise;
  }

  /** Gives a job up, wherever it is. */
  withdraw(run: TaskRun, reason: unknown): void {
    if (!run.settled) this.#giveUp(run, "aborted", run.aborted(reason));
  }

  threadReady(thread: Thread): void {
    this.#balancer.add(thread);
    this.#schedule();
  }

  /** What the thread had read is lost with it; the rest goes elsewhere. */
  threadGone(thread: Thread, reason: Error): void {
    const work = this.#balancer.of(thread);
    if (!work) return;
    this.#balancer.remove(thread);
    const reserved = work.exclusive;
    const unread = work.unread().filter(({ options }) => !options.transferList); // what was moved there is gone
    for (const run of unread) work.remove(run);
    for (const run of work.runs) this.#abandon(run, sameError(reason));
    if (reserved && !reserved.thread) unread.push(reserved);
    this.#requeue(unread);
    work.onIdle?.();
    this.#schedule();
    this.#checkDrained();
  }

  results(thread: Thread, { done, failed, busyMs, areImmediate }: ResultsMessage): void {
    const work = this.#balancer.of(thread);
    if (!work) return;
    work.answers++;
    const names = new Set<string>();
    for (let i = 0; i < done.length; i += 3) {
      const run = this.#ended(work, done[i] as number, names);
      if (!run) continue;
      work.done++;
      if (run.finish(restored(done[i + 1], done[i + 2] as Make))) this.#done++;
    }
    for (let i = 0; i < failed.length; i += 3) {
      const run = this.#ended(work, failed[i] as number, names);
      if (!run) continue;
      work.failed++;
      this.#fail(run, restored(failed[i + 1], failed[i + 2] as Make) as ErrorData);
    }
    this.#costs.measured(names, busyMs / ((done.length + failed.length) / 3), areImmediate);
    this.#schedule(); // room now
    this.#checkDrained();
  }

  /** To a caller that still waits for the task. A listener that throws, or rejects, gives it up with its own error. */
  report(thread: Thread, { id, value, make }: ReportMessage): void {
    const run = this.#balancer.of(thread)?.get(id);
    if (!run?.options.onReport || run.settled) return;
    run.scope.runInAsyncScope(() => this.#tell(run, restored(value, make)));
  }

  /** Of the caller whose task says something; undefined where nobody waits for it. */
  scopeOf(thread: Thread, run: number): AsyncResource | undefined {
    return this.#balancer.of(thread)?.get(run)?.scope;
  }

  /** The thread could not read that message. Of several tasks each is sent again, alone, so that only the culprit rejects. */
  unreadable(thread: Thread, message: number): void {
    const runs = this.#balancer.of(thread)?.takeBack(message) ?? [];
    const [first] = runs;
    if (first && runs.length === 1) this.#abandon(first, first.unreadable());
    else {
      for (const run of runs) run.isAlone = true;
      this.#requeue(runs);
    }
    this.#schedule();
    this.#checkDrained();
  }

  /** After a message of the thread that could not be read: whose results were in it? */
  audited(thread: Thread, audit: AuditedMessage): void {
    const lost = this.#balancer.of(thread)?.takeLost(audit) ?? [];
    this.#logger.error("a message of a thread could not be read", { threadId: thread.threadId, results: lost.length });
    for (const run of lost) this.#abandon(run, run.resultUnreadable());
    this.#schedule();
    this.#checkDrained();
  }

  /** Rejects what waits for a thread. */
  failQueued(error: Error): void {
    for (const run of this.#queue.drain()) this.#abandon(run, sameError(error));
    this.#queued = 0;
    for (const work of this.#balancer) {
      const reserved = work.exclusive;
      if (!reserved || reserved.thread) continue;
      work.exclusive = undefined;
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
    const work = this.#balancer.of(thread);
    if (!work) return Promise.resolve();
    return new Promise((resolve) => {
      work.onIdle = resolve;
      this.#schedule();
    });
  }

  #tell(run: TaskRun, value: unknown): void {
    try {
      const heard: unknown = run.options.onReport?.(value);
      if (types.isPromise(heard)) heard.catch((error: unknown) => this.#listenerRejected(run, error));
    } catch (error) {
      this.#giveUp(run, "aborted", error as Error);
    }
  }

  #listenerRejected(run: TaskRun, error: unknown): void {
    const { id, name } = run;
    // Logged also where the task has settled meanwhile, and nobody else hears of it.
    this.#logger.error("an onReport listener rejected", {
      taskId: this.taskPrefix + id,
      task: name,
      code: errorCode(error),
    });
    if (!run.settled) this.#giveUp(run, "aborted", error as Error);
  }

  #trace(run: TaskRun, { index }: TaskRunCallbacks): Trace<TaskMessage> {
    const numbered = index === undefined ? {} : { index };
    const message: TaskMessage = {
      manager: this.#manager,
      taskId: this.taskPrefix + run.id,
      task: run.name,
      ...numbered,
    };
    return (run.trace = new Trace(taskChannel, message));
  }

  #accept(run: TaskRun): void {
    const { signal } = run.options;
    if (signal) {
      this.#aborts.add(signal, run);
      run.onSettled = () => this.#aborts.delete(signal, run);
    }
    run.startTimer(this.#giveUp);
    this.#queue.push(run);
    this.#queued++;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    // All that this turn's callers ask for leaves together, one message per thread: a tick comes after the promises
    // that these results have settled, the turn's end also after those that are in the ports already. Answered one by one,
    // small messages would come one by one for ever.
    if (this.#balancer.areAnswering) setImmediate(this.#pumpNow);
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
    const blockedMs = this.#balancer.watch();
    if (!isQueued && blockedMs === Infinity) return;
    // Each time it is due it wakes the main thread, which costs a lone caller as much as his task.
    const ms = isQueued ? WATCH_MS : Math.max(WATCH_MS, blockedMs);
    const timer = setTimeout(() => {
      this.#watching = undefined;
      this.#balancer.rebalance(
        (runs) => this.#requeue(runs),
        () => this.#pump(),
      );
    }, ms).unref();
    this.#watching = { timer, isQueued };
  }

  #pump(): void {
    for (const work of this.#balancer) work.listen();
    for (let run = this.#queue.peek(); run; run = this.#queue.peek()) {
      const expected = this.#costs.of(run.name);
      const work = run.options.exclusive ? this.#balancer.leastReserved() : this.#balancer.leastLoaded(expected);
      if (!work) break;
      this.#queue.shift();
      this.#queued--;
      if (run.options.exclusive) work.exclusive = run;
      else work.give(run, expected);
    }
    for (const work of this.#balancer) {
      this.#startExclusive(work);
      work.post(this.#refuse);
      if (work.size === 0 && !work.exclusive) work.onIdle?.();
    }
    this.#watch();
    if (this.#queued >= this.#maxQueue) return;
    this.#room?.resolve();
    this.#room = undefined;
  }

  #startExclusive(work: ThreadWork): void {
    const run = work.exclusive;
    if (!run || run.thread) return; // none, or it runs
    if (!run.settled) {
      if (work.size === 0) work.give(run, this.#costs.of(run.name));
      return;
    }
    work.exclusive = undefined;
    this.#schedule();
  }

  /** It cannot be cloned. */
  readonly #refuse = (run: TaskRun, cause: unknown): void => {
    this.#abandon(run, run.notCloneable(cause));
    this.#schedule();
    this.#checkDrained();
  };

  /** Before all others of their names. */
  #requeue(runs: readonly TaskRun[]): void {
    for (const run of runs.toReversed()) {
      if (run.settled) continue;
      if (this.#aborted) {
        this.#abandon(run, this.#aborted("not-sent"));
        continue;
      }
      run.thread = undefined;
      const { signal } = run.options;
      if (signal?.aborted) {
        this.#abandon(run, run.aborted(signal.reason)); // it was to await its outcome, and has begun nowhere
        continue;
      }
      this.#queue.unshift(run);
      this.#queued++;
    }
  }

  #ended(work: ThreadWork, id: number, names: Set<string>): TaskRun | undefined {
    const run = work.get(id);
    if (!run) return undefined;
    work.remove(run);
    names.add(run.name);
    return run;
  }

  #abort(run: TaskRun, error: Error): void {
    if (run.options.awaitOutcome && run.thread) this.#cancel(run, run.thread, "aborted", error);
    else this.#giveUp(run, "aborted", error);
  }

  /** The caller is told at once; a task that runs already keeps its place in the thread until it has ended. */
  readonly #giveUp = (run: TaskRun, reason: CancelReason, error: Error): void => {
    if (run.thread) this.#cancel(run, run.thread, reason, error);
    else if (!this.#balancer.isReserved(run)) this.#queued--;
    this.#abandon(run, error);
    this.#schedule(); // a thread set aside for it is free again
    this.#checkDrained();
  };

  #fail(run: TaskRun, data: ErrorData): void {
    const error = fromErrorData(data);
    if (this.#aborted) this.#abandon(run, this.#aborted("unknown", error));
    else if (run.fail(error)) this.#failed++;
  }

  /**
   * Aborts the task's signal. After the grace its caller has waited long enough, and a thread that cannot even hear of it,
   * or has nothing else to do, is ended. What that has not read has not begun.
   */
  #cancel(run: TaskRun, thread: Thread, reason: CancelReason, error: Error): void {
    const { id, options } = run;
    const why: unknown = options.signal?.reason;
    const cancelled = thread.post({ type: "cancel", id, reason, why: typeof why === "string" ? why : undefined });
    setTimeout(() => {
      const work = this.#balancer.of(thread);
      const isDeaf = !thread.hasHeard(cancelled);
      if (work && isDeaf) {
        this.#requeue(work.recall());
        this.#schedule();
        this.#checkDrained();
      }
      this.#abandon(run, error);
      if (options.cancel === "cooperative" || !work?.get(id)) return;
      if (options.exclusive || isDeaf) thread.end(error);
    }, this.#cancelGraceMs).unref();
  }

  #abandon(run: TaskRun, error: Error): void {
    if (run.fail(error)) this.#abandoned++;
  }

  #checkDrained(): void {
    if (!this.#onDrained || this.#queued > 0) return;
    for (const { size, exclusive } of this.#balancer) {
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
