// The room of tasks, from `run()` to their outcome. It may import the threads and the rooms below `main`. Start reading at
// `Dispatcher.submit`. A task's way:
//   1. `ConnectionManager.run()` -> `Dispatcher.submit()`: a TaskRun takes the input, and waits in the TaskQueue.
//   2. At the end of the turn `#pump()` gives each waiting run to the thread that the LoadBalancer names, and
//      `ThreadWork.post()` sends all runs of one thread in one message.
//   3. In the thread: src/thread/runtime.ts receives the message, runs the tasks and posts their results.
//   4. `Threads` hands the thread's message to `Dispatcher.receive()`, and `#results()` settles the callers' promises.
import { randomBytes } from "node:crypto";
import type { Config } from "../../config/options.js";
import { type TaskMessage, taskChannel, Trace } from "../../core/channels.js";
import { QueueFullError, type Outcome } from "../../core/errors.js";
import { childOf, errorCode, type LogFields, type Logger } from "../../core/log.js";
import { deferred, type Deferred, onAbort } from "../../core/waiting.js";
import { fromErrorData, sameError } from "../../link/error-serialization.js";
import { type Make, restored } from "../../link/crossing.js";
import type { AuditedMessage, CancelReason, ErrorData, ReportMessage, ResultsMessage } from "../../link/protocol.js";
import type { LogsMessage, Thread, WorkMessage } from "../threads/thread.js";
import { CostEstimator } from "./cost-estimator.js";
import { LoadBalancer } from "./load-balancer.js";
import { TaskQueue } from "./task-queue.js";
import { TaskRun, type TaskRunCallbacks, type RunOptions } from "./task-run.js";
import type { ThreadWork } from "./thread-work.js";

/** All tasks so far, counted by the outcome that their callers got. A type, so that it is a record of numbers, too. */
export type TaskTally = {
  readonly done: number;
  /** Ended by an error of their own. */
  readonly failed: number;
  /** Rejected on the way: by timeout, signal, shutdown, or the death of their thread. */
  readonly abandoned: number;
  /** Not taken: the queue was full. */
  readonly refused: number;
};

/** Between `run()` and the threads: queues tasks, gives each to the least loaded thread, and settles each exactly once. */
export class Dispatcher {
  /** Random once, so that a task's id is unique over managers and processes at the cost of a number. */
  readonly taskPrefix = `${randomBytes(12).toString("hex")}-`;
  readonly maxQueue: number;
  readonly #manager: number;
  /** Between aborting a task's signal and ending its thread. */
  readonly #cancelGraceMs: number;
  readonly #logger: Logger;
  /** An exclusive task leaves it as soon as a thread is reserved for the task. */
  readonly #queue = new TaskQueue();
  readonly #costs = new CostEstimator();
  readonly #balancer: LoadBalancer;
  readonly #tally = { done: 0, failed: 0, abandoned: 0, refused: 0 };
  #ids = 0;
  #pumping = false;
  #room: Deferred<void> | undefined;
  #onDrained: (() => void) | undefined;
  /** Set once the shutdown waits no longer: a task that fails from then on failed because of it. */
  #shutdownError: ((outcome: Outcome, cause?: unknown) => Error) | undefined;

  /** `manager`: its id in the messages of `redthread:task`. */
  constructor(manager: number, { threads, queue, shutdown }: Config, logger: Logger) {
    this.#manager = manager;
    this.maxQueue = queue.max;
    this.#cancelGraceMs = shutdown.cancelGraceMs;
    this.#logger = logger;
    this.#balancer = new LoadBalancer(threads.concurrency, (recalled) => {
      this.#requeue(recalled);
      this.#pump();
    });
  }

  /** How many tasks wait for a thread. */
  get size(): number {
    return this.#queue.size;
  }

  get tally(): TaskTally {
    return { ...this.#tally };
  }

  countsOf(thread: Thread): { running: number; done: number; failed: number } {
    const work = this.#balancer.of(thread);
    return { running: work?.size ?? 0, done: work?.done ?? 0, failed: work?.failed ?? 0 };
  }

  run(name: string, input: unknown, options: RunOptions): Promise<unknown> {
    return new Promise((resolve, reject) => this.submit(name, input, options, { resolve, reject }));
  }

  /** As `run`, for a caller that needs no promise. */
  submit(name: string, input: unknown, options: RunOptions, callbacks: TaskRunCallbacks): TaskRun | undefined {
    const queued = this.#queue.size;
    if (queued >= this.maxQueue) {
      this.#tally.refused++;
      const message = `${queued} tasks are waiting already (queue.max): task ${name} was not taken`;
      callbacks.reject(new QueueFullError(message, { outcome: "refused", queued }));
      return undefined;
    }
    const run = new TaskRun(++this.#ids, name, input, options, callbacks);
    const { signal } = options;
    if (signal?.aborted) run.fail(run.aborted(signal.reason));
    else if (taskChannel.hasSubscribers) this.#trace(run, callbacks.index).start(() => this.#accept(run));
    else this.#accept(run);
    return run;
  }

  /** How many tasks of this name a thread takes before it has ended any: as many as it runs at once, or more. */
  taken(name: string): number {
    return this.#balancer.taken(this.#costs.of(name));
  }

  /** Resolves when the queue has room. Undefined if it has room now. */
  room(): Promise<void> | undefined {
    if (this.#queue.size < this.maxQueue) return undefined;
    return (this.#room ??= deferred()).promise;
  }

  /** Gives a task up, whether it waits or runs. */
  withdraw(run: TaskRun, reason: unknown): void {
    if (!run.settled) this.#giveUp(run, "aborted", run.aborted(reason));
  }

  threadReady(thread: Thread): void {
    this.#balancer.add(thread);
    this.#schedule();
  }

  /** What the thread had read is lost with it. The rest is sent to other threads. */
  threadGone(thread: Thread, reason: Error): void {
    const work = this.#balancer.of(thread);
    if (!work) return;
    this.#balancer.remove(thread);
    const reserved = work.exclusive;
    const unread = work.unread().filter(({ options }) => !options.transferList); // moved buffers are gone
    for (const run of unread) work.remove(run);
    for (const run of work.runs) this.#abandon(run, sameError(reason));
    if (reserved && !reserved.thread) unread.push(reserved);
    this.#requeue(unread);
    work.onIdle?.();
    this.#schedule();
  }

  receive(thread: Thread, message: WorkMessage): void {
    switch (message.type) {
      case "results":
        return this.#results(thread, message);
      case "report":
        return this.#report(thread, message);
      case "unreadable":
        return this.#unreadable(thread, message.message);
      case "audited":
        return this.#audited(thread, message);
      case "logs":
        return this.#writeLogs(thread, message);
    }
  }

  /** Rejects the tasks that wait for a thread. */
  failQueued(error: Error): void {
    for (const run of this.#queue.drain()) this.#abandon(run, sameError(error));
    for (const work of this.#balancer) {
      const reserved = work.exclusive;
      if (!reserved || reserved.thread) continue;
      work.exclusive = undefined;
      this.#abandon(reserved, sameError(error));
    }
    this.#schedule();
  }

  /** The shutdown waits no longer: rejects the tasks that wait. The running tasks are about to be aborted. */
  giveUp(shutdownError: (outcome: Outcome, cause?: unknown) => Error): void {
    this.#shutdownError = shutdownError;
    this.failQueued(shutdownError("not-sent"));
  }

  /** Resolves when nothing waits and nothing runs, also no task whose caller was already rejected. */
  drained(): Promise<void> {
    if (this.#isDrained()) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onDrained = resolve;
      this.#schedule();
    });
  }

  /** Resolves when a thread that gets nothing new has ended its tasks and the task that is reserved for it, or is gone. */
  idle(thread: Thread): Promise<void> {
    const work = this.#balancer.of(thread);
    if (!work) return Promise.resolve();
    return new Promise((resolve) => {
      work.onIdle = resolve;
      this.#schedule();
    });
  }

  #trace(run: TaskRun, index: number | undefined): Trace<TaskMessage> {
    const numbered = index === undefined ? {} : { index };
    const message = { manager: this.#manager, taskId: this.taskPrefix + run.id, task: run.name, ...numbered };
    return (run.trace = new Trace<TaskMessage>(taskChannel, message));
  }

  #accept(run: TaskRun): void {
    run.startTimer(this.#giveUp);
    this.#queue.push(run);
    const { signal } = run.options;
    // Last, because the signal may be aborted by now: then the task is given up at once.
    if (signal) run.onSettled = onAbort(signal, () => this.#abort(run, run.aborted(signal.reason)));
    this.#schedule();
  }

  #schedule(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    // The tasks that callers submit in this turn leave together, in one message per thread. A tick is late enough for callers
    // that the last results have resumed. While threads are answering, more results are in the ports already, and the
    // turn's end is late enough for the callers of these, too. Otherwise each caller's next task would be a message of its own.
    if (this.#balancer.areAnswering) setImmediate(this.#pumpNow);
    else process.nextTick(this.#pumpNow);
  }

  readonly #pumpNow = (): void => {
    this.#pumping = false;
    this.#pump();
  };

  #pump(): void {
    for (const work of this.#balancer) work.checkBlocked();
    for (let run = this.#queue.peek(); run; run = this.#queue.peek()) {
      const expected = this.#costs.of(run.name);
      const work = run.options.exclusive ? this.#balancer.leastReserved() : this.#balancer.leastLoaded(expected);
      if (!work) break;
      this.#queue.shift();
      if (run.options.exclusive) work.exclusive = run;
      else work.give(run, expected);
    }
    for (const work of this.#balancer) {
      this.#startExclusive(work);
      work.post(this.#refuse);
      if (work.size === 0 && !work.exclusive) work.onIdle?.();
    }
    this.#balancer.watch(this.#queue.size > 0);
    if (this.#onDrained && this.#isDrained()) this.#onDrained();
    if (this.#queue.size >= this.maxQueue) return;
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

  /** The task's input or context cannot be cloned. */
  readonly #refuse = (run: TaskRun, cause: unknown): void => {
    this.#abandon(run, run.notCloneable(cause));
    this.#schedule();
  };

  #isDrained(): boolean {
    if (this.#queue.size > 0) return false;
    for (const { size, exclusive } of this.#balancer) if (size > 0 || (exclusive && !exclusive.settled)) return false;
    return true;
  }

  /** Puts runs that have not begun before all others of their names. */
  #requeue(runs: readonly TaskRun[]): void {
    for (const run of runs.toReversed()) {
      if (run.settled) continue;
      run.thread = undefined;
      const { signal } = run.options;
      // The outcome of an aborted task was awaited, but the task has not begun in any thread.
      const error = this.#shutdownError?.("not-sent") ?? (signal?.aborted ? run.aborted(signal.reason) : undefined);
      if (error) this.#abandon(run, error);
      else this.#queue.unshift(run);
    }
  }

  #results(thread: Thread, { done, failed, busyMs, areImmediate }: ResultsMessage): void {
    const work = this.#balancer.of(thread);
    if (!work) return;
    work.answers++;
    const names = new Set<string>();
    for (let i = 0; i < done.length; i += 3) {
      const run = this.#ended(work, done[i] as number, names);
      if (!run) continue;
      work.done++;
      if (run.finish(restored(done[i + 1], done[i + 2] as Make))) this.#tally.done++;
    }
    for (let i = 0; i < failed.length; i += 3) {
      const run = this.#ended(work, failed[i] as number, names);
      if (!run) continue;
      work.failed++;
      this.#fail(run, restored(failed[i + 1], failed[i + 2] as Make) as ErrorData);
    }
    this.#costs.measured(names, busyMs / ((done.length + failed.length) / 3), areImmediate);
    this.#schedule(); // there is room now
  }

  #ended(work: ThreadWork, id: number, names: Set<string>): TaskRun | undefined {
    const run = work.get(id);
    if (!run) return undefined;
    work.remove(run);
    names.add(run.name);
    return run;
  }

  #fail(run: TaskRun, data: ErrorData): void {
    const error = fromErrorData(data);
    if (this.#shutdownError) this.#abandon(run, this.#shutdownError("unknown", error));
    else if (run.fail(error)) this.#tally.failed++;
  }

  /** A listener that throws or rejects gives up its task with its own error. */
  #report(thread: Thread, { id, value, make }: ReportMessage): void {
    const run = this.#balancer.of(thread)?.get(id);
    run?.report(value, make, (error, isRejection) => {
      const task = { taskId: this.taskPrefix + id, task: run.name };
      // Logged because nothing else tells of a rejection that comes after the task has settled.
      if (isRejection) this.#logger.error("an onReport listener rejected", { ...task, code: errorCode(error) });
      if (!run.settled) this.#giveUp(run, "aborted", error as Error);
    });
  }

  /**
   * The thread could not read the message of this number. A task that was alone in it rejects. Of several tasks each is sent
   * again alone, so that only the culprit rejects.
   */
  #unreadable(thread: Thread, message: number): void {
    const runs = this.#balancer.of(thread)?.takeBack(message) ?? [];
    const [first] = runs;
    if (first && runs.length === 1) this.#abandon(first, first.unreadable());
    else {
      for (const run of runs) run.isAlone = true;
      this.#requeue(runs);
    }
    this.#schedule();
  }

  /** The thread's answer after one of its messages could not be read: tells which tasks' results are lost. */
  #audited(thread: Thread, audit: AuditedMessage): void {
    const lost = this.#balancer.of(thread)?.takeLost(audit) ?? [];
    this.#logger.error("a message of a thread could not be read", { threadId: thread.threadId, results: lost.length });
    for (const run of lost) this.#abandon(run, run.resultUnreadable());
    this.#schedule();
  }

  /** A task's line is written in the AsyncLocalStorage of the task's caller. */
  #writeLogs(thread: Thread, { records, dropped }: LogsMessage): void {
    const logger = childOf(this.#logger, { threadId: thread.threadId });
    const work = this.#balancer.of(thread);
    let [last, to]: [LogFields | undefined, Logger] = [undefined, logger];
    for (const { level, message, fields, bound, job } of records) {
      // The records of a task follow one another, and share what is bound.
      if (bound !== last) [last, to] = [bound, bound ? childOf(logger, bound) : logger];
      const run = job === undefined ? undefined : work?.get(job);
      if (run) run.scope.runInAsyncScope(to[level], to, message, fields);
      else to[level](message, fields);
    }
    if (dropped > 0) logger.warn("log records were dropped", { dropped });
  }

  #abort(run: TaskRun, error: Error): void {
    if (run.options.awaitOutcome && run.thread) this.#cancel(run, run.thread, "aborted", error);
    else this.#giveUp(run, "aborted", error);
  }

  /** Rejects at once. A task that runs already keeps its place in the thread until it has ended. */
  readonly #giveUp = (run: TaskRun, reason: CancelReason, error: Error): void => {
    if (run.thread) this.#cancel(run, run.thread, reason, error);
    else if (!this.#balancer.isReserved(run)) this.#queue.left();
    this.#abandon(run, error);
    this.#schedule(); // a thread that was reserved for it is free again
  };

  /**
   * Aborts the task's signal. After the grace the caller has waited long enough. A thread that cannot even read the abort, or
   * has no other task, is then ended. What such a thread has not read has not begun.
   */
  #cancel(run: TaskRun, thread: Thread, reason: CancelReason, error: Error): void {
    const { id, options } = run;
    const why: unknown = options.signal?.reason;
    const cancel = thread.post({ type: "cancel", id, reason, why: typeof why === "string" ? why : undefined });
    setTimeout(() => {
      const work = this.#balancer.of(thread);
      const isBlocked = !thread.hasRead(cancel);
      if (work && isBlocked) {
        this.#requeue(work.recall());
        this.#schedule();
      }
      this.#abandon(run, error);
      if (options.cancel === "cooperative" || !work?.get(id)) return;
      if (options.exclusive || isBlocked) thread.end(error);
    }, this.#cancelGraceMs).unref();
  }

  #abandon(run: TaskRun, error: Error): void {
    if (run.fail(error)) this.#tally.abandoned++;
  }
}
