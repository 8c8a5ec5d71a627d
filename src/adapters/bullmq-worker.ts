import { randomUUID } from "node:crypto";
import { BroadcastChannel } from "node:worker_threads";
import type { TaskContext } from "../worker.js";
import type { TaskJob } from "./bullmq.js";
import type { JobCall, JobProgress, JobReport } from "./job-reports.js";

export type { TaskJob } from "./bullmq.js";
export type { JobProgress, JobReport } from "./job-reports.js";

type Reporter = Pick<TaskContext, "report">;

/** A job of a living process answers sooner; the process may have given the task up. */
const ANSWER_MS = 5_000;
const QUESTIONS = [
  "getChildrenValues",
  "getDependencies",
  "getDependenciesCount",
  "getIgnoredChildrenFailures",
] as const;

/**
 * Sets the progress of the job that this task runs as. If several are set at once, only the last one is written. It is
 * written before the job completes or fails. Does nothing in a task that does not run as a job.
 * @throws REDTHREAD_NOT_CLONEABLE
 */
export function updateProgress({ report }: Reporter, progress: JobProgress): void {
  report({ bullmq: "progress", progress } satisfies JobReport);
}

/** Adds a row to the job's log in BullMQ, in order. Does nothing in a task that does not run as a job. */
export function log({ report }: Reporter, row: string): void {
  report({ bullmq: "log", row } satisfies JobReport);
}

/**
 * The job that this task runs as, as BullMQ's own sandbox has it: its fields as they are now, its `token`, and its methods,
 * each of which asks the main thread. A task that has moved its job throws BullMQ's DelayedError, WaitingError or
 * WaitingChildrenError, or any error of that name.
 * @throws Error in a task that does not run as a job, and, like its methods, without an answer within 5 s
 */
export async function jobOf<Data = unknown, Result = unknown>(
  context: Pick<TaskContext, "context" | "report">,
): Promise<TaskJob<Data, Result>> {
  if ((context.context as { jobId?: unknown } | undefined)?.jobId === undefined) {
    throw new Error("this task runs as no job");
  }
  const ask = async (method: string, ...args: unknown[]): Promise<unknown> =>
    (await answer(context, method, args)).value;
  const { value, token } = await answer(context, "asJSONSandbox", []);
  const json = value as { readonly data: string; readonly returnvalue?: string };
  const job = {
    ...json,
    token,
    data: JSON.parse(json.data) as unknown,
    returnValue: json.returnvalue && (JSON.parse(json.returnvalue) as unknown),
    log: (row: string) => log(context, row),
    updateProgress: async (progress: JobProgress) => updateProgress(context, progress),
    updateData: async (data: unknown) => {
      await ask("updateData", data);
      job.data = data;
    },
    moveToDelayed: (timestamp: number, by = token) => ask("moveToDelayed", timestamp, by),
    moveToWait: (by = token) => ask("moveToWait", by),
    moveToWaitingChildren: (by = token, options = {}) => ask("moveToWaitingChildren", by, options),
    ...Object.fromEntries(QUESTIONS.map((method) => [method, (options = {}) => ask(method, options)])),
  };
  return job as unknown as TaskJob<Data, Result>;
}

interface Answer {
  readonly value?: unknown;
  readonly token?: string;
  readonly error?: unknown;
}

async function answer({ report }: Reporter, method: string, args: readonly unknown[]): Promise<Answer> {
  const channel = new BroadcastChannel(randomUUID());
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`the job did not answer ${method} within ${ANSWER_MS} ms`)), ANSWER_MS);
      channel.addEventListener("message", (event) => {
        const { data } = event as Event & { readonly data: Answer };
        if ("error" in data) reject(data.error);
        else resolve(data);
      });
      report({ bullmq: "call", method, args, reply: channel.name } satisfies JobCall); // may throw
    });
  } finally {
    clearTimeout(timer);
    channel.close();
  }
}
