import { BroadcastChannel } from "node:worker_threads";

/** What a task reports to the job it runs as; to callers that are not `redthread/bullmq` it is a report like any other. */
export type JobReport =
  | { readonly bullmq: "progress"; readonly progress: JobProgress }
  | { readonly bullmq: "log"; readonly row: string };

/** What BullMQ takes as a job's progress: it is kept as JSON. */
export type JobProgress = string | boolean | number | object;

/** A method of the job, and the BroadcastChannel on which the task waits for its answer: a report has none. */
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

/** Writes what a task reports into its job, one after the other; a progress that a later one overtakes is skipped. */
export class JobReports {
  /** The task has moved its job elsewhere: it is no longer this worker's to complete or to fail. */
  hasMoved = false;
  readonly #job: ReportedJob;
  readonly #onError: (error: Error) => void;
  #writes: Promise<unknown> = Promise.resolve();
  #progress: JobProgress | undefined;

  constructor(job: ReportedJob, onError: (error: Error) => void) {
    this.#job = job;
    this.#onError = onError;
  }

  /** Resolves when all that was heard so far is written, or could not be. */
  get written(): Promise<unknown> {
    return this.#writes;
  }

  readonly hear = (value: unknown): void => {
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
    try {
      const methods = this.#job as unknown as Record<string, (...args: readonly unknown[]) => Promise<unknown>>;
      const value = await methods[method]!(...args);
      if (method.startsWith("moveTo") && value !== false) this.hasMoved = true;
      channel.postMessage({ value, token: this.#job.token });
    } catch (error) {
      channel.postMessage({ error });
    } finally {
      channel.close();
    }
  }

  /** A report that cannot be written is no reason for the job to fail. */
  #write(step: () => Promise<unknown>): void {
    this.#writes = this.#writes.then(step).catch(this.#onError);
  }
}
