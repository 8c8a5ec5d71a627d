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
import { ConfigInvalidError } from "../core/errors.js";
import { within } from "../core/waiting.js";
import { isPointless } from "../core/failures.js";
import type { ConnectionManager, RunOptions, TaskName } from "../index.js";
import type { InProcess } from "../testing.js";
import { JobReports } from "./job-reports.js";
import { needs } from "./needs.js";

needs("bullmq 5.64", "cancelJob" in Worker.prototype);

/** Of a task that runs as a job, its context's `context`: in its log lines, too. */
export interface JobContext {
  readonly queue: string;
  readonly jobId: string;
  readonly jobName: string;
  /** 1 for the first. */
  readonly attempt: number;
}

/** A task's job, as `jobOf` of redthread/bullmq/worker gives it. */
export type TaskJob<Data = unknown, Result = unknown> = SandboxedJob<Data, Result> & { readonly token: string };

export type JobRunOptions = Pick<RunOptions, "cancel" | "exclusive" | "priority" | "timeoutMs">;

export interface JobWorkerOptions<Tasks extends object> extends Omit<
  WorkerOptions,
  "concurrency" | "useWorkerThreads" | "workerForkOptions" | "workerThreadsOptions"
> {
  /** The task that a job runs as; its input is the job's data. Default: the task of the job's name. */
  readonly task?: TaskName<Tasks> | ((job: Job) => TaskName<Tasks>) | undefined;
  /**
   * Jobs at once in this process. Default: `jobsPerThread` for each thread that is ready, at least as many; until somebody
   * sets `worker.concurrency`.
   */
  readonly concurrency?: number | undefined;
  /** Default 2: one computes while the other fetches what it needs. */
  readonly jobsPerThread?: number | undefined;
  /** For `manager.run`, the same for each job, or by job. */
  readonly run?: JobRunOptions | ((job: Job) => JobRunOptions) | undefined;
}

export interface CloseOptions {
  /** What runs has so long to end; then it is given up. Default 10 000. */
  readonly drainMs?: number | undefined;
  /**
   * And so long until BullMQ's connections are closed; then they are cut. Default 2 000. More than `shutdown.cancelGraceMs`:
   * what is given up has that long to end by itself.
   */
  readonly closeMs?: number | undefined;
}

/** The part of a manager that jobs need. */
interface Manager {
  run(name: string, input: unknown, options: RunOptions): Promise<unknown>;
  stats(): { readonly threads: readonly { readonly state: string }[] };
}

interface Plan {
  readonly taskOf: (job: Job) => string;
  readonly runOptionsOf: (job: Job) => JobRunOptions;
  readonly concurrency: number | undefined;
  readonly jobsPerThread: number;
}

/** No thread had a place for the job; it is not to blame, and another process may have one. */
const NO_PLACE = ["QUEUE_FULL", "THREAD_START_FAILED"];
const NO_PLACE_MS = 1_000;
const FOLLOW_MS = 1_000;
/** What BullMQ takes for "the job is elsewhere": neither completed nor failed. */
const MOVED = new Set(["DelayedError", "WaitingError", "WaitingChildrenError"]);
/** On an error of the task's own: the names of its classes. What the manager rejects with has none. */
const CLASSES = Symbol.for("redthread.classes");
const RUN_OPTIONS = new Set(["cancel", "exclusive", "priority", "timeoutMs"]);
/** What would be ignored: options of BullMQ's sandbox, of `manager.run` and `close`, and what sounds like `task`. */
const NOT_HERE =
  /^(useWorkerThreads|worker(Fork|Threads)Options|awaitOutcome|context|onReport|signal|transferList|(drain|close)Ms|task.+)$/;

/**
 * Takes the jobs of a BullMQ queue and runs each as a task in the manager's threads, from the moment it resolves (with
 * `autorun: false` from `worker.run()`): the threads are up by then. Locks are renewed on the main thread, also while a
 * job blocks its own. BullMQ's connections are its own: close the worker before the manager.
 * @throws what `manager.ready()` throws, REDTHREAD_CONFIG_INVALID for options that would not be heeded, and BullMQ's own
 *   errors about its options
 */
export async function createWorker<Tasks extends object>(
  manager: ConnectionManager<Tasks> | InProcess<Tasks>,
  queueName: string,
  { task, run = {}, concurrency, jobsPerThread = 2, ...bullmq }: JobWorkerOptions<Tasks>,
): Promise<JobWorker> {
  refuse(Object.keys(bullmq).filter((name) => RUN_OPTIONS.has(name) || NOT_HERE.test(name)));
  if (typeof run === "object") checked(run);
  await manager.ready();
  const plan: Plan = {
    taskOf: typeof task === "function" ? task : ({ name }) => task ?? name,
    runOptionsOf: typeof run === "function" ? (job) => checked(run(job)) : () => run,
    concurrency,
    jobsPerThread,
  };
  return new JobWorker(manager as unknown as Manager, queueName, bullmq, plan); // typed by the tasks module
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
    // Three parameters, or BullMQ makes no signal.
    this.#worker = new CuttableWorker(queueName, (job, token, signal) => this.#process(job, token, signal), {
      ...options,
      autorun: false, // not before it has its listeners
      concurrency,
    });
    // A job whose lock is lost is another worker's by now: what still runs here is given up.
    this.#worker.on("lockRenewalFailed", (ids) => ids.forEach((id) => this.#worker.cancelJob(id, "its lock was lost")));
    if (plan.concurrency === undefined) this.#following = setInterval(() => this.#follow(), FOLLOW_MS).unref();
    this.#worker.onConcurrency = () => clearInterval(this.#following);
    if (options.autorun !== false) this.#worker.run().catch(this.#onError);
  }

  /** BullMQ's own: for its events, `run`, `cancelJob`, `concurrency`, `pause` and `resume`. */
  get worker(): Worker {
    return this.#worker;
  }

  /**
   * Takes no more jobs, lets those that run end, then closes BullMQ's connections. Idempotent. After `drainMs` what
   * runs is given up: a job that never started goes back to its queue, another one fails and is repeated by its attempts.
   */
  close({ drainMs = 10_000, closeMs = 2_000 }: CloseOptions = {}): Promise<void> {
    return (this.#closing ??= this.#close(drainMs, closeMs));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #process(job: Job, token: string | undefined, signal: AbortSignal | undefined): Promise<unknown> {
    const reports = new JobReports(job, this.#onError);
    try {
      const result = await this.#run(job, signal, reports.hear);
      // As JSON the bytes of another view would be an object of numbers.
      return types.isUint8Array(result) ? Buffer.from(result.buffer, result.byteOffset, result.byteLength) : result;
    } catch (error) {
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
   * What BullMQ is to make of a failure. A job that may have run fails, and is repeated by its attempts; one that never
   * started is given back, and that costs it none.
   */
  async #judge(error: unknown, job: Job, hasMoved: boolean, token?: string, signal?: AbortSignal): Promise<unknown> {
    // BullMQ looks at the message of whatever is thrown.
    if (!types.isNativeError(error)) return new Error(`the task threw ${String(error)}`, { cause: error });
    if (isPointless(error)) return unrecoverable(error);
    const { [CLASSES]: classes } = error as { [CLASSES]?: readonly string[] };
    // One that was read and had not begun has classes, too.
    if (classes && !(signal?.aborted && hasNotBegun(error))) return thrown(error, [error.name, ...classes], hasMoved);
    if (hasCode(error, NO_PLACE)) {
      await job.moveToDelayed(Date.now() + NO_PLACE_MS, token);
      return new DelayedError();
    }
    if (this.#isLeftByShutdown(error, signal)) {
      await this.#worker.pause(true); // or it would take the same job again
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
    if (await isOverWithin(closed, drainMs)) return;
    this.#worker.cancelAllJobs("the worker closes");
    if (await isOverWithin(closed, closeMs)) return;
    this.#worker.cut();
  }

  #follow(): void {
    this.#worker.follow(this.#jobsAtOnce());
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
 * Tells who sets its concurrency, and can be cut. Its own `close()` waits for a Redis that is gone: what it awaits of its
 * connections never comes, and its timers go on.
 */
class CuttableWorker extends Worker {
  /** Somebody else than `follow` has set it. */
  onConcurrency: (() => void) | undefined;

  override get concurrency(): number {
    return super.concurrency;
  }

  override set concurrency(jobs: number) {
    super.concurrency = jobs;
    this.onConcurrency?.(); // there is none yet while BullMQ's constructor sets it
  }

  follow(jobs: number): void {
    super.concurrency = jobs;
  }

  cut(): void {
    // What these wait for may never come either; what they stop and disconnect, they do at once. A connection that never
    // was one is ended by `close`, one that `close` has begun to end by `disconnect`.
    const { backend, blockingConnection, connection } = this as unknown as Partial<Record<string, Connection>>;
    const open = backend ? [backend] : [blockingConnection!, connection!]; // of BullMQ 5
    const steps = [this.pause(true), this.lockManager.close()];
    for (const one of open) steps.push(one.close(true), one.disconnect());
    for (const step of steps) step.catch((error: Error) => this.emit("error", error));
  }
}

function checked(run: JobRunOptions): JobRunOptions {
  refuse(
    Object.keys(run).filter((name) => !RUN_OPTIONS.has(name)),
    "run.",
  );
  return run;
}

/** @throws CONFIG_INVALID */
function refuse(names: readonly string[], where = ""): void {
  if (names.length === 0) return;
  const problems = names.map((name) => `${where}${name} is no option of createWorker`);
  throw new ConfigInvalidError(problems.join("; "), { problems });
}

/** What BullMQ is to make of an error of the task's own. It looks for its own classes, and theirs are in another thread. */
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

async function isOverWithin(work: Promise<void>, ms: number): Promise<boolean> {
  const late = new Error();
  try {
    await within(work, ms, () => late);
    return true;
  } catch (error) {
    if (error !== late) throw error;
    return false;
  }
}
