import type { TaskContext } from "../worker.js";

/** What a task reports to the job it runs as; to callers that are not `redthread/bullmq` it is a report like any other. */
export type JobReport =
  | { readonly bullmq: "progress"; readonly progress: JobProgress }
  | { readonly bullmq: "log"; readonly row: string };

/** What BullMQ takes as a job's progress: it is kept as JSON. */
export type JobProgress = string | boolean | number | object;

type Reporter = Pick<TaskContext, "report">;

/**
 * Sets the progress of the job that this task runs as. Of several at once the last one is written; it is there before
 * the job has completed or failed. Does nothing in a task that is no job's.
 * @throws REDTHREAD_NOT_CLONEABLE
 */
export function updateProgress({ report }: Reporter, progress: JobProgress): void {
  report({ bullmq: "progress", progress } satisfies JobReport);
}

/** Adds a row to the job's log in BullMQ, in order. Does nothing in a task that is no job's. */
export function log({ report }: Reporter, row: string): void {
  report({ bullmq: "log", row } satisfies JobReport);
}
