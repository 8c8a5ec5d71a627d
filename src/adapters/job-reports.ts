import { BroadcastChannel } from "node:worker_threads";

/** A report of a task to its job. For callers other than `redthread/bullmq` it is a report like any other. */
export type JobReport =
  | { readonly bullmq: "progress"; readonly progress: JobProgress }
  | { readonly bullmq: "log"; readonly row: string };

/** A job's progress, which BullMQ keeps as JSON. */
export type JobProgress = string | boolean | number | object;

/** Calls a method of the job. The task waits for its answer on a BroadcastChannel, because reports have no answers. */
export interface JobCall {
  readonly bullmq: "call";
  readonly method: string;
  readonly args: readonly unknown[];
  readonly reply: string;
}

/** The part of a BullMQ job that reports are written to. */
export interface ReportedJob {
  updateProgress(progress: JobProgress): Promise<unknown>;
  log(row: string): Promise<unknown>;
  readonly token?: string | undefined;
}

/** Writes a task's reports to its job, one after the other. A progress is skipped when a later one is waiting. */
export class JobReports {
  /** The task has moved its job, or is moving it: this worker may neither complete nor fail it any more. */
  hasMoved = false;
  readonly #job: ReportedJob;
  readonly #onError: (error: Error) => void;
  #writes: Promise<unknown> = Promise.resolve();
  #progress: JobProgress | undefined;

  constructor(job: ReportedJob, onError: (error: Error) => void) {
    this.#job = job;
    this.#onError = onError;
  }

  /** Resolves when all reports so far are written, or could not be written. */
  get written(): Promise<unknown> {
    return this.#writes;
  }

  readonly onReport = (value: unknown): void => {
    const report = value as JobReport | JobCall | null | undefined;
    if (report?.bullmq === "log") this.#write(() => this.#job.log(report.row));
    if (report?.bullmq === "call") this.#write(() => this.#call(report));
    if (report?.bullmq !== "progress") return;
    const isNext = this.#progress !== undefined;
    this.#progress = report.progress;
    if (isNext) return;
    this.#write(() => {
      const progress = this.#progress!;
      this.#progress = undefined;
      return this.#job.updateProgress(progress);
    });
  };

  async #call({ method, args, reply }: JobCall): Promise<void> {
    const channel = new BroadcastChannel(reply);
    const hadMoved = this.hasMoved;
    const moves = method.startsWith("moveTo");
    try {
      this.hasMoved ||= moves; // the job's lock may be gone before the answer is read
      const methods = this.#job as unknown as Record<string, (...args: readonly unknown[]) => Promise<unknown>>;
      const value = await methods[method]!(...args);
      if (value === false) this.hasMoved = hadMoved;
      channel.postMessage({ value, token: this.#job.token });
    } catch (error) {
      this.hasMoved = hadMoved;
      channel.postMessage({ error });
    } finally {
      channel.close();
    }
  }

  /** A report that cannot be written does not fail the job. */
  #write(step: () => Promise<unknown>): void {
    this.#writes = this.#writes.then(step).catch(this.#onError);
  }
}
