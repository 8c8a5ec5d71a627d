import { types } from "node:util";
import {
  DelayedError,
  type Job,
  type SandboxedJob,
  UnrecoverableError,
  WaitingError,
  Worker,
  type WorkerOptions,
} from "bullmq";
import { isPointless } from "../core/failures.js";
import { waitAtMost } from "../core/waiting.js";
import type { ConnectionManager, RunOptions, TaskName } from "../index.js";
import type { InProcess } from "../testing.js";
import { JobLocks, type LockKeeping } from "./job-locks.js";
import { JobReports } from "./job-reports.js";
import { needs, refuse } from "./refuse.js";

needs("bullmq 5.64", "cancelJob" in Worker.prototype);

/** The `context` of a task that runs as a job, in its TaskContext and in its log lines. */
export interface JobContext {
  readonly queue: string;
  readonly jobId: string;
  readonly jobName: string;
  /** 1 for the first. */
  readonly attempt: number;
}

/** A task's job, from `jobOf` of redthread/bullmq/worker. */
export type TaskJob<Data = unknown, Result = unknown> = SandboxedJob<Data, Result> & { readonly token: string };

export type JobRunOptions = Pick<RunOptions, "cancel" | "exclusive" | "priority" | "timeoutMs">;

export interface JobWorkerOptions<Tasks extends object> extends Omit<
  WorkerOptions,
  "concurrency" | "useWorkerThreads" | "workerForkOptions" | "workerThreadsOptions"
> {
  /** The task that a job runs as; its input is the job's data. Default: the task of the job's name. */
  readonly task?: TaskName<Tasks> | ((job: Job) => TaskName<Tasks>) | undefined;
  /**
   * Jobs at once in this process. Default: `jobsPerThread` for each ready thread, and for one if none is ready, until
   * `worker.concurrency` is set.
   */
  readonly concurrency?: number | undefined;
  /** Default 2: one job computes while another waits for I/O. */
  readonly jobsPerThread?: number | undefined;
  /** Options of `manager.run`, the same for each job, or by job. */
  readonly run?: JobRunOptions | ((job: Job) => JobRunOptions) | undefined;
}

export interface CloseOptions {
  /** Running jobs have so long to end; then they are given up. Default 10 000. */
  readonly drainMs?: number | undefined;
  /**
   * After that, BullMQ's connections have so long to close; then they are cut. Default 2 000. It should be more than
   * `shutdown.cancelGraceMs`, which is how long a job that is given up has to end by itself.
   */
  readonly closeMs?: number | undefined;
}

/** The part of a manager that jobs need. */
interface Manager {
  run(name: string, input: unknown, options: RunOptions): Promise<unknown>;
  /** A manager in the thread of a test has none: BullMQ renews the locks there. */
  keepLocks?(): Promise<LockKeeping>;
  stats(): { readonly threads: readonly { readonly state: string }[] };
}

interface Plan {
  readonly taskOf: (job: Job) => string;
  readonly runOptionsOf: (job: Job) => JobRunOptions;
  readonly concurrency: number | undefined;
  readonly jobsPerThread: number;
  readonly keeping: LockKeeping | undefined;
}

/** No thread had room for the job. The job is not at fault, and another process may have room. */
const NO_PLACE = ["QUEUE_FULL", "THREAD_START_FAILED"];
const NO_PLACE_MS = 1_000;
const FOLLOW_MS = 1_000;
/** BullMQ takes these as "the job was moved": it neither completes nor fails the job. */
const MOVED = new Set(["DelayedError", "WaitingError", "WaitingChildrenError"]);
/** An error of the task's own has the names of its classes here; an error of the manager has none. */
const CLASSES = Symbol.for("redthread.classes");
const RUN_OPTIONS = new Set(["cancel", "exclusive", "priority", "timeoutMs"]);
/** These would be ignored: options of BullMQ's sandbox, of `manager.run` and of `close`, and names that begin with `task`. */
const NOT_HERE =
  /^(useWorkerThreads|worker(Fork|Threads)Options|awaitOutcome|context|onReport|signal|transferList|(drain|close)Ms|task.+)$/;

/**
 * Takes the jobs of a BullMQ queue and runs each as a task in the manager's threads. It resolves when the threads are up, and
 * begins then (with `autorun: false` at `worker.run()`). The manager's keeper extends the locks of the jobs, also while a job
 * blocks its thread, or anything blocks the main thread. BullMQ has its own connections: close the worker before the manager.
 * @throws what `manager.ready()` throws, also if the keeper cannot be connected; REDTHREAD_CONFIG_INVALID for options that
 *   would be ignored, or if `connections.max` has no place for the keeper; BullMQ's own errors about its options
 */
export async function createWorker<Tasks extends object>(
  manager: ConnectionManager<Tasks> | InProcess<Tasks>,
  queueName: string,
  { task, run = {}, concurrency, jobsPerThread = 2, ...bullmq }: JobWorkerOptions<Tasks>,
): Promise<JobWorker> {
  accept(bullmq, (name) => !RUN_OPTIONS.has(name) && !NOT_HERE.test(name));
  if (typeof run === "object") checked(run);
  await manager.ready();
  const jobManager = manager as unknown as Manager; // typed by the tasks module
  const plan: Plan = {
    taskOf: typeof task === "function" ? task : ({ name }) => task ?? name,
    runOptionsOf: typeof run === "function" ? (job) => checked(run(job)) : () => run,
    concurrency,
    jobsPerThread,
    keeping: await jobManager.keepLocks?.(),
  };
  return new JobWorker(jobManager, queueName, bullmq, plan);
}

/** A BullMQ Worker whose jobs run in threads. */
export class JobWorker implements AsyncDisposable {
  readonly #worker: CuttableWorker;
  readonly #manager: Manager;
  readonly #plan: Plan;
  readonly #following: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;

  /** @internal Made by `createWorker`. */
  constructor(manager: Manager, queueName: string, options: WorkerOptions, plan: Plan) {
    this.#manager = manager;
    this.#plan = plan;
    const { concurrency = this.#jobsAtOnce() } = plan;
    // BullMQ makes a signal only for a function of three parameters.
    this.#worker = new CuttableWorker(queueName, (job, token, signal) => this.#process(job, token, signal), {
      ...options,
      autorun: false, // it needs its listeners first
      concurrency,
    });
    // A job whose lock is lost belongs to another worker by now: it is given up here.
    const onLost = (id: string): void => void this.#worker.cancelJob(id, "its lock was lost");
    this.#worker.on("lockRenewalFailed", (ids) => ids.forEach(onLost));
    const ttlMs = this.#worker.opts.lockDuration!;
    this.#worker.locks = new JobLocks({ worker: this.#worker, ttlMs, keeping: plan.keeping, onLost });
    if (plan.concurrency === undefined) {
      this.#following = setInterval(() => this.#worker.follow(this.#jobsAtOnce()), FOLLOW_MS).unref();
    }
    this.#worker.onConcurrency = () => clearInterval(this.#following);
    if (options.autorun !== false) this.#worker.run().catch(this.#onError);
  }

  /** BullMQ's Worker: for its events, `run`, `cancelJob`, `concurrency`, `pause` and `resume`. */
  get worker(): Worker {
    return this.#worker;
  }

  /**
   * Takes no more jobs, waits for running jobs, then closes BullMQ's connections. Idempotent. After `drainMs` the running
   * jobs are given up: a job that was not started goes back to its queue, the others fail and are repeated by their attempts.
   */
  close({ drainMs = 10_000, closeMs = 2_000 }: CloseOptions = {}): Promise<void> {
    return (this.#closing ??= this.#close(drainMs, closeMs));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #process(job: Job, token: string | undefined, signal: AbortSignal | undefined): Promise<unknown> {
    const reports = new JobReports(job, this.#onError);
    const lock = this.#worker.locks?.of(job.id);
    if (lock) lock.isMoved = () => reports.hasMoved;
    try {
      const result = await this.#run(job, signal, reports.onReport);
      lock?.settle();
      // As JSON, a Uint8Array that is no Buffer would be an object of numbers.
      return types.isUint8Array(result) ? Buffer.from(result.buffer, result.byteOffset, result.byteLength) : result;
    } catch (error) {
      lock?.settle();
      await reports.written;
      throw await this.#judge(error, job, reports.hasMoved, token, signal);
    } finally {
      await reports.written;
    }
  }

  #run(job: Job, signal: AbortSignal | undefined, onReport: (value: unknown) => void): Promise<unknown> {
    const { taskOf, runOptionsOf } = this.#plan;
    const { id = "", name, queueName, attemptsMade } = job;
    const context: JobContext = { queue: queueName, jobId: id, jobName: name, attempt: attemptsMade + 1 };
    return this.#manager.run(taskOf(job), job.data, {
      ...runOptionsOf(job),
      context,
      onReport,
      awaitOutcome: true,
      ...(signal && { signal }),
    });
  }

  /**
   * The error that BullMQ gets for a failure. A job that may have run fails, and is repeated by its attempts. A job that was
   * not started goes back to its queue, which costs it no attempt.
   */
  async #judge(error: unknown, job: Job, hasMoved: boolean, token?: string, signal?: AbortSignal): Promise<unknown> {
    // BullMQ reads the message of whatever is thrown.
    if (!types.isNativeError(error)) return new Error(`the task threw ${String(error)}`, { cause: error });
    if (isPointless(error)) return unrecoverable(error);
    const { [CLASSES]: classes } = error as { [CLASSES]?: readonly string[] };
    // The error of a task that a thread had read but not begun has classes, too.
    if (classes && !(signal?.aborted && hasNotBegun(error))) return thrown(error, [error.name, ...classes], hasMoved);
    if (hasCode(error, NO_PLACE)) {
      await job.moveToDelayed(Date.now() + NO_PLACE_MS, token);
      return new DelayedError();
    }
    if (this.#isLeftByShutdown(error, signal)) {
      await this.#worker.pause(true); // otherwise it would take the same job again
      await job.moveToWait(token);
      return new WaitingError();
    }
    return error;
  }

  /** The manager, or this worker, closes and the job was not started. */
  #isLeftByShutdown(error: Error, signal?: AbortSignal): boolean {
    if (hasCode(error, ["SHUTTING_DOWN"])) return true;
    const isCancelled = signal?.aborted === true && this.#closing === undefined;
    return hasNotBegun(error) && !isCancelled;
  }

  async #close(drainMs: number, closeMs: number): Promise<void> {
    clearInterval(this.#following);
    const closed = this.#worker.close();
    const settled = Promise.allSettled([closed]);
    if (await waitAtMost(drainMs, settled)) return closed;
    this.#worker.cancelAllJobs("the worker closes");
    if (await waitAtMost(closeMs, settled)) return closed;
    this.#worker.cut();
    this.#worker.locks?.close();
  }

  #jobsAtOnce(): number {
    const { threads } = this.#manager.stats();
    const ready = threads.filter(({ state }) => state === "ready").length;
    return Math.max(ready, 1) * this.#plan.jobsPerThread;
  }

  readonly #onError = (error: Error): void => {
    this.#worker.emit("error", error);
  };
}

interface Connection {
  close(force: boolean): Promise<void>;
  disconnect(): Promise<void>;
}

/**
 * A Worker that reports when its concurrency is set, whose locks are kept, and that can be cut. Its own `close()` waits for
 * ever if Redis is gone, because its connections never close, and its timers go on.
 */
class CuttableWorker extends Worker {
  /** Called when the user sets the concurrency. */
  onConcurrency: (() => void) | undefined;
  locks: JobLocks | undefined;

  override get concurrency(): number {
    return super.concurrency;
  }

  override set concurrency(jobs: number) {
    super.concurrency = jobs;
    this.onConcurrency?.(); // undefined while BullMQ's constructor sets the concurrency
  }

  follow(jobs: number): void {
    super.concurrency = jobs;
  }

  // BullMQ 5 has one more argument before these.
  protected override async moveToActive(...args: Parameters<Worker["moveToActive"]>): Promise<Job> {
    const fetched = this.locks?.keepFetched(args.at(-2)!);
    try {
      return await super.moveToActive(...args);
    } finally {
      fetched?.giveUp();
    }
  }

  protected override async nextJobFromJobData(...args: Parameters<Worker["nextJobFromJobData"]>): Promise<Job> {
    const [data, id, token] = args;
    if (data && id && token) this.locks?.fetched(id, token);
    let job: Job | undefined;
    try {
      job = await super.nextJobFromJobData(...args);
      return job;
    } finally {
      if (data && !job) this.locks?.of(id)?.end(); // it cannot be read, or the next one of a repeated job could not be added
    }
  }

  override async processJob(...args: Parameters<Worker["processJob"]>): Promise<void | Job> {
    const lock = this.locks?.of(args[0].id);
    try {
      return await super.processJob(...args);
    } finally {
      lock?.end();
    }
  }

  cut(): void {
    // These steps may never resolve either, but they stop and disconnect at once. `close` ends a connection that was never
    // open, and `disconnect` ends a connection that `close` has begun to close.
    const { backend, blockingConnection, connection } = this as unknown as Partial<Record<string, Connection>>;
    const open = backend ? [backend] : [blockingConnection!, connection!]; // BullMQ 5
    const steps = [this.pause(true), this.lockManager.close()];
    for (const one of open) steps.push(one.close(true), one.disconnect());
    for (const step of steps) step.catch((error: Error) => this.emit("error", error));
  }
}

function checked(run: JobRunOptions): JobRunOptions {
  accept(run, (name) => RUN_OPTIONS.has(name), "run.");
  return run;
}

/** @throws REDTHREAD_CONFIG_INVALID for other names */
function accept(options: object, isOption: (name: string) => boolean, where = ""): void {
  const names = Object.keys(options).filter((name) => !isOption(name));
  refuse(names.map((name) => `${where}${name} is no option of createWorker`));
}

/** The error that BullMQ gets for an error of the task's own: BullMQ checks for its own classes, which threads have copies of. */
function thrown(error: Error, names: readonly string[], hasMoved: boolean): Error {
  if (names.includes("UnrecoverableError")) {
    return Object.setPrototypeOf(error, UnrecoverableError.prototype) as Error;
  }
  const moved = names.find((name) => MOVED.has(name));
  if (!moved) return error;
  if (hasMoved) return new DelayedError();
  return new UnrecoverableError(`the task threw ${moved}, but moved its job nowhere: call a method of jobOf() first`);
}

function hasCode(error: Error, codes: readonly string[]): boolean {
  const { code } = error as { code?: unknown };
  return codes.some((one) => code === `REDTHREAD_${one}`);
}

function hasNotBegun(error: Error): boolean {
  return hasCode(error, ["TASK_ABORTED"]) && (error as { outcome?: unknown }).outcome === "not-sent";
}

function unrecoverable(error: Error): UnrecoverableError {
  const { code } = error as { code?: unknown };
  return Object.assign(new UnrecoverableError(error.message), { code, cause: error });
}
