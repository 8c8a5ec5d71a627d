/** Replaces `src/classes` of BullMQ's tests: its own classes, except for a Worker whose processors run as tasks. */
import * as bullmq from "bullmq";
import { jobOf } from "../../src/adapters/bullmq-worker.js";
import { JobWorker } from "../../src/adapters/bullmq.js";
import { runInProcess } from "../../src/testing.js";
import type { TaskContext } from "../../src/worker.js";

export * from "bullmq";

/** Tasks must be known from the beginning, processors are not; a file of tests has fewer than this. */
const MOST_PROCESSORS = 500;
const processors: bullmq.Processor[] = [];
const tasks = Object.fromEntries(
  Array.from({ length: MOST_PROCESSORS }, (_, at) => [`p${at}`, (_data: never, context: never) => call(at, context)]),
);

async function call(at: number, context: TaskContext): Promise<unknown> {
  const job = await jobOf(context);
  return processors[at]!(job as unknown as bullmq.Job, job.token, context.signal);
}

const redis = { host: "127.0.0.1", port: Number(process.env["REDIS_PORT"]) };
const run = await runInProcess(tasks, { env: {}, redis, shutdown: { cancelGraceMs: 5_000 } });

function make(name: string, processor: unknown, options: bullmq.WorkerOptions, ...rest: never[]): bullmq.Worker {
  const isOurs = typeof processor === "function" && options?.connection && !process.env["PLAIN"];
  if (!isOurs) return new bullmq.Worker(name, processor as bullmq.Processor, options, ...rest);
  const task = `p${processors.push(processor as bullmq.Processor) - 1}`;
  const { concurrency = 1 } = options;
  const plan = { taskOf: () => task, runOptionsOf: () => ({}), concurrency, keeping: undefined, jobsPerThread: 1 };
  return new JobWorker(run, name, options, plan).worker;
}

/** BullMQ's tests use `new`, its static method, and its prototype's fields. */
export const Worker = Object.assign(
  function (...parts: Parameters<typeof make>) {
    return make(...parts);
  } as unknown as typeof bullmq.Worker,
  { RateLimitError: () => bullmq.Worker.RateLimitError(), prototype: bullmq.Worker.prototype },
);
