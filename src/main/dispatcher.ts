import { fromErrorData } from "../common/envelope.js";
import { QueueFullError, type Outcome } from "../common/errors.js";
import type { CancelReason, ResultMessage } from "../common/protocol.js";
import { AbortWatch } from "./abort-watch.js";
import { Job, type RunOptions } from "./job.js";
import type { Thread } from "./thread.js";

export interface DispatcherOptions {
  /** Tasks at once in one thread. */
  readonly concurrency: number;
  readonly maxQueue: number;
  /** Between aborting a task's signal and ending its thread. */
  readonly cancelGraceMs: number;
}

interface Load {
  readonly jobs: Map<number, Job>;
  /** Waits for this thread to be empty, or has it to itself; nothing else is sent there. */
  exclusive: Job | undefined;
  /** Called once nothing runs there and nothing is reserved for it. */
  onIdle: (() => void) | undefined;
  done: number;
  failed: number;
}

/** Between `run()` and the threads: queues, deals out to the least loaded, and settles every task exactly once. */
export class Dispatcher {
  readonly #concurrency: number;
  readonly #maxQueue: number;
  readonly #cancelGraceMs: number;
  readonly #loads = new Map<Thread, Load>();
  readonly #aborts = new AbortWatch<Job>((job, reason) => this.#giveUp(job, "aborted", job.aborted(reason)));
  #queue: Job[] = [];
  /** Of the queue, those whose callers still wait; reserved ones are no longer in it. */
  #queued = 0;
  #inThreads = 0;
  #ids = 0;
  #pumping = false;
  #onDrained: (() => void) | undefined;
  #aborted: ((outcome: Outcome, cause?: unknown) => Error) | undefined;
  #finished = 0;
  #abandoned = 0;

  constructor({ concurrency, maxQueue, cancelGraceMs }: DispatcherOptions) {
    this.#concurrency = concurrency;
    this.#maxQueue = maxQueue;
    this.#cancelGraceMs = cancelGraceMs;
  }

  /** Tasks that wait for a thread. */
  get size(): number {
    return this.#queued;
  }

  /** Of all tasks so far: those that came to their own end, and those that were given up on the way. */
  get tally(): { finished: number; abandoned: number } {
    return { finished: this.#finished, abandoned: this.#abandoned };
  }

  countsOf(thread: Thread): { running: number; done: number; failed: number } {
    const load = this.#loads.get(thread);
    return { running: load?.jobs.size ?? 0, done: load?.done ?? 0, failed: load?.failed ?? 0 };
  }

  run(name: string, input: unknown, options: RunOptions): Promise<unknown> {
    if (this.#queued >= this.#maxQueue) return Promise.reject(this.#queueFull(name));
    const job = new Job(++this.#ids, name, input, options);
    const { signal } = options;
    if (signal?.aborted) {
      job.abandon(job.aborted(signal.reason));
      return job.result;
    }
    if (signal) {
      this.#aborts.add(signal, job);
      job.onSettled = () => this.#aborts.delete(signal, job);
    }
    job.startTimer(this.#giveUp);
    this.#queue.push(job);
    this.#queued++;
    this.#schedule();
    return job.result;
  }

  threadReady(thread: Thread): void {
    this.#loads.set(thread, { jobs: new Map(), exclusive: undefined, onIdle: undefined, done: 0, failed: 0 });
    this.#schedule();
  }

  threadGone(thread: Thread, reason: Error): void {
    const load = this.#loads.get(thread);
    if (!load) return;
    this.#loads.delete(thread);
    this.#inThreads -= load.jobs.size;
    for (const job of load.jobs.values()) this.#abandon(job, reason);
    const reserved = load.exclusive;
    if (reserved && !reserved.settled && !reserved.thread) {
      this.#queue.unshift(reserved);
      this.#queued++;
    }
    load.onIdle?.();
    this.#schedule();
    this.#checkDrained();
  }

  results(thread: Thread, results: readonly ResultMessage[]): void {
    const load = this.#loads.get(thread);
    if (!load) return;
    for (const result of results) {
      const job = load.jobs.get(result.id);
      if (!job) continue;
      this.#leave(job, load);
      if (result.ok) load.done++;
      else load.failed++;
      this.#settle(job, result);
    }
    this.#pump(); // room now: what waits leaves in this turn
    this.#checkDrained();
  }

  /** Rejects what waits for a thread. */
  failQueued(error: Error): void {
    const waiting = this.#queue;
    this.#queue = [];
    this.#queued = 0;
    for (const job of waiting) this.#abandon(job, error);
    for (const load of this.#loads.values()) {
      const reserved = load.exclusive;
      if (!reserved || reserved.thread) continue;
      load.exclusive = undefined;
      this.#abandon(reserved, error);
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
    const load = this.#loads.get(thread);
    if (!load) return Promise.resolve();
    return new Promise((resolve) => {
      load.onIdle = resolve;
      this.#schedule();
    });
  }

  #schedule(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    // All that this turn's callers ask for leaves together: one message per thread.
    queueMicrotask(() => {
      this.#pumping = false;
      this.#pump();
    });
  }

  #pump(): void {
    const batches = new Map<Thread, Job[]>();
    let next = 0;
    for (; next < this.#queue.length; next++) {
      const job = this.#queue[next]!;
      if (job.settled) continue; // given up while waiting
      const thread = job.options.exclusive ? this.#reserve(job) : this.#leastLoaded();
      if (!thread) break;
      this.#queued--;
      if (!job.options.exclusive) this.#assign(job, thread, batches);
    }
    this.#queue.splice(0, next);
    for (const [thread, jobs] of batches) this.#send(thread, jobs);
    for (const [thread, load] of this.#loads) {
      this.#startExclusive(thread, load);
      if (load.jobs.size === 0 && !load.exclusive) load.onIdle?.();
    }
  }

  #leastLoaded(): Thread | undefined {
    let best: Thread | undefined;
    let least = this.#concurrency;
    for (const [thread, load] of this.#loads) {
      if (load.exclusive || load.jobs.size >= least || thread.state !== "ready") continue;
      best = thread;
      least = load.jobs.size;
    }
    return best;
  }

  /** Sets a thread aside: it gets nothing more until it is empty and the job has run; the others go on. */
  #reserve(job: Job): Thread | undefined {
    let best: [Thread, Load] | undefined;
    for (const entry of this.#loads) {
      const [thread, load] = entry;
      if (load.exclusive || thread.state !== "ready") continue;
      if (!best || load.jobs.size < best[1].jobs.size) best = entry;
    }
    if (best) best[1].exclusive = job;
    return best?.[0];
  }

  #startExclusive(thread: Thread, load: Load): void {
    const job = load.exclusive;
    if (!job || load.jobs.size > 0) return;
    if (job.settled) {
      load.exclusive = undefined;
      this.#schedule();
      return;
    }
    this.#enter(job, thread);
    this.#sendAlone(thread, job);
  }

  #assign(job: Job, thread: Thread, batches: Map<Thread, Job[]>): void {
    this.#enter(job, thread);
    if (job.options.transferList) return this.#sendAlone(thread, job);
    const batch = batches.get(thread);
    if (batch) batch.push(job);
    else batches.set(thread, [job]);
  }

  #enter(job: Job, thread: Thread): void {
    job.thread = thread;
    this.#loads.get(thread)!.jobs.set(job.message.id, job);
    this.#inThreads++;
  }

  #leave(job: Job, load: Load): void {
    load.jobs.delete(job.message.id);
    if (load.exclusive === job) load.exclusive = undefined;
    this.#inThreads--;
  }

  #send(thread: Thread, jobs: readonly Job[]): void {
    try {
      thread.post({ type: "tasks", tasks: jobs.map((job) => job.message) });
    } catch {
      // One input cannot be cloned; alone, each shows whether it is the one.
      for (const job of jobs) this.#sendAlone(thread, job);
    }
  }

  #sendAlone(thread: Thread, job: Job): void {
    try {
      thread.post({ type: "tasks", tasks: [job.message] }, job.options.transferList);
    } catch (cause) {
      this.#leave(job, this.#loads.get(thread)!);
      this.#abandon(job, job.notCloneable(cause));
      this.#schedule();
      this.#checkDrained();
    }
  }

  /** The caller is told at once; a task that runs already keeps its place in the thread until it has ended. */
  readonly #giveUp = (job: Job, reason: CancelReason, error: Error): void => {
    if (job.thread) this.#cancel(job, job.thread, reason, error);
    else if (![...this.#loads.values()].some((load) => load.exclusive === job)) this.#queued--;
    this.#abandon(job, error);
    this.#schedule(); // a thread set aside for it is free again
    this.#checkDrained();
  };

  #settle(job: Job, result: ResultMessage): void {
    if (!result.ok && this.#aborted) this.#abandon(job, this.#aborted("unknown", fromErrorData(result.error)));
    else if (job.finish(result)) this.#finished++;
  }

  /** Aborts the task's signal; a thread that cannot even hear of it, or has nothing else to do, is ended after the grace. */
  #cancel({ message, options }: Job, thread: Thread, reason: CancelReason, error: Error): void {
    const { id } = message;
    const cancelled = thread.post({ type: "cancel", id, reason });
    if (options.cancel === "cooperative") return;
    setTimeout(() => {
      if (!this.#loads.get(thread)?.jobs.has(id)) return;
      if (options.exclusive || !thread.hasHeard(cancelled)) thread.end(error);
    }, this.#cancelGraceMs).unref();
  }

  #abandon(job: Job, error: Error): void {
    if (job.abandon(error)) this.#abandoned++;
  }

  #checkDrained(): void {
    if (this.#queued > 0 || this.#inThreads > 0) return;
    for (const load of this.#loads.values()) if (load.exclusive && !load.exclusive.settled) return;
    this.#onDrained?.();
  }

  #queueFull(name: string): QueueFullError {
    return new QueueFullError(`${this.#queued} tasks are waiting already (queue.max): task ${name} was not taken`, {
      outcome: "refused",
      queued: this.#queued,
    });
  }
}
