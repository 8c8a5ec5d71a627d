import type { Transferable } from "node:worker_threads";
import { fromErrorData, uncloneablePath } from "../common/envelope.js";
import {
  NotCloneableError,
  QueueFullError,
  TaskAbortedError,

  TaskTimeoutError,
  type Outcome,
} from "../common/errors.js";
import type { CancelReason, ResultMessage, TaskMessage } from "../common/protocol.js";
import type { Thread } from "./threads.js";

export interface RunOptions {
  /** Aborts the task's own signal and rejects TASK_ABORTED. */
  readonly signal?: AbortSignal;
  /** From this call to the result; then TASK_TIMEOUT. Default: none. */
  readonly timeoutMs?: number;
  /** Parts of the input that move to the thread instead of being copied. */
  readonly transferList?: readonly Transferable[];
  /** No other task runs in that thread meanwhile. Default false. */
  readonly exclusive?: boolean;
  /** Plain data for the task's context, shown in its log lines. */
  readonly context?: unknown;
}

interface Job {
  readonly message: TaskMessage;
  readonly options: RunOptions;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
  thread: Thread | undefined;
  settled: boolean;
  timer: NodeJS.Timeout | undefined;
  onAbort: (() => void) | undefined;
}

interface Load {
  readonly jobs: Map<number, Job>;
  /** Waits for this thread to be empty, or has it to itself; nothing else is sent there. */
  exclusive: Job | undefined;
}

/** Between `run()` and the threads: queues, deals out to the least loaded, and settles every task exactly once. */
export class Dispatcher {
  readonly #concurrency: number;
  readonly #maxQueue: number;
  readonly #loads = new Map<Thread, Load>();
  #queue: Job[] = [];
  #queued = 0;
  #inThreads = 0;
  #ids = 0;
  #pumping = false;
  #onDrained: (() => void) | undefined;
  #finished = 0;
  #abandoned = 0;
  readonly #counts = new WeakMap<Thread, { done: number; failed: number }>();

  constructor({ concurrency, maxQueue }: { concurrency: number; maxQueue: number }) {
    this.#concurrency = concurrency;
    this.#maxQueue = maxQueue;
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
    const { done, failed } = this.#counts.get(thread) ?? { done: 0, failed: 0 };
    return { running: this.#loads.get(thread)?.jobs.size ?? 0, done, failed };
  }

  run(name: string, input: unknown, options: RunOptions): Promise<unknown> {
    const { signal, timeoutMs, context } = options;
    if (signal?.aborted) return Promise.reject(aborted(name, "not-sent", signal.reason));
    if (this.#queued >= this.#maxQueue) {
      return Promise.reject(
        new QueueFullError(`${this.#queued} tasks are waiting already (queue.max): task ${name} was not taken`, {
          outcome: "refused",
          queued: this.#queued,
        }),
      );
    }
    return new Promise((resolve, reject) => {
      const message = { id: ++this.#ids, name, input, ...(context === undefined ? {} : { context }) };
      const job: Job = {
        ...{ message, options, resolve, reject },
        ...{ thread: undefined, settled: false, timer: undefined, onAbort: undefined },
      };
      if (timeoutMs !== undefined) job.timer = setTimeout(() => this.#timedOut(job, timeoutMs), timeoutMs);
      if (signal) {
        job.onAbort = () => this.#giveUp(job, "aborted", aborted(name, outcomeOf(job), signal.reason));
        signal.addEventListener("abort", job.onAbort, { once: true });
      }
      this.#queue.push(job);
      this.#queued++;
      this.#schedule();
    });
  }

  threadReady(thread: Thread): void {
    this.#loads.set(thread, { jobs: new Map(), exclusive: undefined });
    this.#schedule();
  }

  threadGone(thread: Thread, reason: Error): void {
    const load = this.#loads.get(thread);
    if (!load) return;
    this.#loads.delete(thread);
    this.#inThreads -= load.jobs.size;
    for (const job of load.jobs.values()) this.#abandon(job, reason);
    const { exclusive } = load;
    if (exclusive && !exclusive.settled && exclusive.thread === undefined) this.#requeue(exclusive);
    this.#schedule();
    this.#checkDrained();
  }

  results(thread: Thread, results: readonly ResultMessage[]): void {
    const load = this.#loads.get(thread);
    if (!load) return;
    for (const result of results) {
      const job = load.jobs.get(result.id);
      if (!job) continue;
      load.jobs.delete(result.id);
      this.#inThreads--;
      if (load.exclusive === job) load.exclusive = undefined;
      this.#count(thread, result.ok);
      this.#finish(job, result);
    }
    this.#pump(); // room now: what waits leaves in this turn
    this.#checkDrained();
  }

  /** Rejects what waits for a thread. */
  failQueued(error: Error): void {
    const waiting = this.#queue;
    this.#queue = [];
    for (const job of waiting) this.#abandon(job, error);
    for (const load of this.#loads.values()) {
      if (load.exclusive?.thread === undefined) {
        if (load.exclusive) this.#abandon(load.exclusive, error);
        load.exclusive = undefined;
      }
    }
    this.#queued = 0;
    this.#checkDrained();
  }

  /** Resolves when nothing waits and nothing runs, also nothing whose caller was already rejected. */
  drained(): Promise<void> {
    return new Promise((resolve) => {
      this.#onDrained = resolve;
      this.#checkDrained();
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
    if (this.#queued === 0) return;
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
    for (const [thread, load] of this.#loads) this.#startExclusive(thread, load);
  }

  #leastLoaded(): Thread | undefined {
    let best: Thread | undefined;
    let least = this.#concurrency;
    for (const [thread, load] of this.#loads) {
      if (load.exclusive || load.jobs.size >= least) continue;
      best = thread;
      least = load.jobs.size;
    }
    return best;
  }

  /** Sets a thread aside: it gets nothing more until it is empty and the job has run; the others go on. */
  #reserve(job: Job): Thread | undefined {
    let best: [Thread, Load] | undefined;
    for (const entry of this.#loads) {
      if (!entry[1].exclusive && (!best || entry[1].jobs.size < best[1].jobs.size)) best = entry;
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
    this.#take(job, thread);
    this.#sendAlone(thread, job);
  }

  #assign(job: Job, thread: Thread, batches: Map<Thread, Job[]>): void {
    this.#take(job, thread);
    if (job.options.transferList) return this.#sendAlone(thread, job);
    const batch = batches.get(thread);
    if (batch) batch.push(job);
    else batches.set(thread, [job]);
  }

  #take(job: Job, thread: Thread): void {
    job.thread = thread;
    this.#loads.get(thread)!.jobs.set(job.message.id, job);
    this.#inThreads++;
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
      const load = this.#loads.get(thread)!;
      load.jobs.delete(job.message.id);
      if (load.exclusive === job) load.exclusive = undefined;
      this.#inThreads--;
      this.#abandon(job, notCloneable(job.message, cause));
      this.#schedule();
    }
  }

  #finish(job: Job, result: ResultMessage): void {
    if (!this.#settle(job)) return;
    this.#finished++;
    if (result.ok) job.resolve(result.value);
    else job.reject(fromErrorData(result.error));
  }

  #timedOut(job: Job, timeoutMs: number): void {
    const { name } = job.message;
    const where = job.thread ? `in thread ${job.thread.threadId}` : "waiting for a thread";
    this.#giveUp(
      job,
      "timeout",
      new TaskTimeoutError(`task ${name} did not settle within ${timeoutMs} ms (${where})`, {
        outcome: outcomeOf(job),
        timeoutMs,
      }),
    );
  }

  /** The caller is told at once; a task that runs already keeps its place in the thread until it has ended. */
  #giveUp(job: Job, reason: CancelReason, error: Error): void {
    if (job.settled) return;
    if (job.thread) job.thread.post({ type: "cancel", id: job.message.id, reason });
    else if (!this.#isReserving(job)) this.#queued--;
    this.#abandon(job, error);
    this.#schedule();
    this.#checkDrained();
  }

  #isReserving(job: Job): boolean {
    for (const load of this.#loads.values()) if (load.exclusive === job) return true;
    return false;
  }

  #requeue(job: Job): void {
    this.#queue.unshift(job);
    this.#queued++;
  }

  #abandon(job: Job, error: Error): void {
    if (!this.#settle(job)) return;
    this.#abandoned++;
    job.reject(error);
  }

  #settle(job: Job): boolean {
    if (job.settled) return false;
    job.settled = true;
    clearTimeout(job.timer);
    if (job.onAbort) job.options.signal?.removeEventListener("abort", job.onAbort);
    return true;
  }

  #count(thread: Thread, ok: boolean): void {
    let counts = this.#counts.get(thread);
    if (!counts) this.#counts.set(thread, (counts = { done: 0, failed: 0 }));
    if (ok) counts.done++;
    else counts.failed++;
  }

  #checkDrained(): void {
    if (this.#queued > 0 || this.#inThreads > 0) return;
    for (const load of this.#loads.values()) if (load.exclusive && !load.exclusive.settled) return;
    this.#onDrained?.();
  }
}

function outcomeOf(job: Job): Outcome {
  return job.thread ? "unknown" : "not-sent";
}

function aborted(name: string, outcome: Outcome, cause: unknown): TaskAbortedError {
  return new TaskAbortedError(`task ${name} was given up by its caller's signal`, { outcome, cause });
}

function notCloneable({ name, input, context }: TaskMessage, cause: unknown): NotCloneableError {
  const inInput = uncloneablePath(input, "input");
  const path = isRefused(input) || context === undefined ? inInput : uncloneablePath(context, "context");
  return new NotCloneableError(`task ${name} was not sent: ${path} cannot be cloned or transferred to a thread`, {
    outcome: "not-sent",
    path,
    cause,
  });
}

function isRefused(value: unknown): boolean {
  try {
    structuredClone(value);
    return false;
  } catch {
    return true; // the question was whether it throws
  }
}

