import type { JobProgress, JobReport } from "./bullmq-worker.js";

/** The part of a BullMQ job that reports are written to. */
export interface ReportedJob {
  updateProgress(progress: JobProgress): Promise<unknown>;
  log(row: string): Promise<unknown>;
}

/** Writes what a task reports into its job, one after the other; a progress that a later one overtakes is skipped. */
export class JobReports {
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
    const report = value as JobReport | null | undefined;
    if (report?.bullmq === "log") this.#write(() => this.#job.log(report.row));
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

  /** A report that cannot be written is no reason for the job to fail. */
  #write(step: () => Promise<unknown>): void {
    this.#writes = this.#writes.then(step).catch(this.#onError);
  }
}
