import { types } from "node:util";
import { DelayedError, type Job, UnrecoverableError, WaitingError, Worker, type WorkerOptions } from "bullmq";
import type { ConnectionManager, RunOptions, TaskName } from "../index.js";
import { within } from "../common/time.js";
import { JobReports } from "./job-reports.js";

/** Of a task that runs as a job, its context's `context`: in its log lines, too. */
export interface JobContext {
  readonly queue: string;
  readonly jobId: string;
  readonly jobName: string;
  /** 1 for the first. */
  readonly attempt: number;
}

export type JobRunOptions = Pick<RunOptions, "cancel" | "exclusive" | "priority" | "timeoutMs">;

export interface JobWorkerOptions<Tasks extends object> extends Omit<
  WorkerOptions,
  "autorun" | "concurrency" | "useWorkerThreads" | "workerForkOptions" | "workerThreadsOptions"
> {
  /** The task that a job runs as; its input is the job's data. Default: the task of the job's name. */
  readonly task?: TaskName<Tasks> | ((job: Job) => TaskName<Tasks>);
  /** Jobs at once in this process. Default: `jobsPerThread` for each thread that is ready, at least as many. */
  readonly concurrency?: number;
  /** Default 2: one computes while the other fetches what it needs. */
  readonly jobsPerThread?: number;
  /** For `manager.run`, the same for each job, or by job. */
  readonly run?: JobRunOptions | ((job: Job) => JobRunOptions);
}

export interface CloseOptions {
  /** What runs has so long to end; then it is given up. Default 10 000. */
  readonly drainMs?: number;
  /** And so long until BullMQ's connections are closed; then they are cut. Default 2 000. */
  readonly closeMs?: number;
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

/** Whatever the job is repeated for, these come again. */
const POINTLESS = ["TASK_NOT_FOUND", "NOT_CLONEABLE", "CONFIG_INVALID", "NEEDS_DEDICATED", "COMMAND_REFUSED"];
/** No thread had a place for the job; it is not to blame, and another process may have one. */
const NO_PLACE = ["QUEUE_FULL", "THREAD_START_FAILED"];
const NO_PLACE_MS = 1_000;
const FOLLOW_MS = 1_000;

/**
 * Takes the jobs of a BullMQ queue and runs each as a task in the manager's threads, from the moment it resolves: the
 * threads are up by then. Locks are renewed on the main thread, also while a job blocks its own. BullMQ's connections
 * are its own: close the worker before the manager.
 * @throws what `manager.ready()` throws, and BullMQ's own errors about its options
 */
export async function createWorker<Tasks extends object>(
  manager: ConnectionManager<Tasks>,
  queueName: string,
  { task, run = {}, concurrency, jobsPerThread = 2, ...bullmq }: JobWorkerOptions<Tasks>,
): Promise<JobWorker> {
  await manager.ready();
  const plan: Plan = {
    taskOf: typeof task === "function" ? task : ({ name }) => task ?? name,
    runOptionsOf: typeof run === "function" ? run : () => run,
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
      autorun: false,
      concurrency,
    });
    // A job whose lock is lost is another worker's by now: what still runs here is given up.
    this.#worker.on("lockRenewalFailed", (ids) => ids.forEach((id) => this.#worker.cancelJob(id, "its lock was lost")));
    if (plan.concurrency === undefined) this.#following = setInterval(() => this.#follow(), FOLLOW_MS).unref();
    this.#worker.run().catch(this.#onError);
  }

  /** BullMQ's own: for its events, `cancelJob`, `pause` and `resume`. */
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
      return await this.#run(job, signal, reports.hear);
    } catch (error) {
      throw await this.#judge(error, job, token, signal);
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
      ...(signal && { signal }),
    });
  }

  /**
   * What BullMQ is to make of a failure. A job that may have run fails, and is repeated by its attempts; one that never
   * started is given back, and that costs it none.
   */
  async #judge(error: unknown, job: Job, token?: string, signal?: AbortSignal): Promise<unknown> {
    if (hasCode(error, POINTLESS)) return unrecoverable(error as Error);
    if (hasCode(error, NO_PLACE)) {
      await job.moveToDelayed(Date.now() + NO_PLACE_MS, token);
      return new DelayedError();
    }
    if (this.#isLeftByShutdown(error, signal)) {
      await this.#worker.pause(true); // or it would take the same job again
      await job.moveToWait(token);
      return new WaitingError();
    }
    // BullMQ looks at the message of whatever is thrown.
    return types.isNativeError(error) ? error : new Error(`the task threw ${String(error)}`, { cause: error });
  }

  /** The manager, or this worker, closes and the job was not started. */
  #isLeftByShutdown(error: unknown, signal?: AbortSignal): boolean {
    const { outcome } = Object(error) as { outcome?: unknown };
    if (hasCode(error, ["SHUTTING_DOWN"])) return outcome === "refused"; // otherwise it is the task that was refused something
    const isCancelled = signal?.aborted === true && this.#closing === undefined;
    return hasCode(error, ["TASK_ABORTED"]) && outcome === "not-sent" && !isCancelled;
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
    this.#worker.concurrency = this.#jobsAtOnce();
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

/** Its own `close()` waits for a Redis that is gone: what it awaits of its connections never comes, and its timers go on. */
class CuttableWorker extends Worker {
  cut(): void {
    // What these wait for may never come either; what they stop and disconnect, they do at once. A connection that never
    // was one is ended by `close`, one that `close` has begun to end by `disconnect`.
    const steps = [this.pause(true), this.lockManager.close(), this.backend.close(true), this.disconnect()];
    for (const step of steps) step.catch((error: Error) => this.emit("error", error));
  }
}

function hasCode(error: unknown, codes: readonly string[]): boolean {
  const { code } = Object(error) as { code?: unknown };
  return codes.some((one) => code === `REDTHREAD_${one}`);
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
