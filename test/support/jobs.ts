import { type Job, type JobState, Queue } from "bullmq";
import { createWorker, type JobWorker, type JobWorkerOptions } from "../../src/adapters/bullmq.js";
import { eventually } from "./gate.js";
import type { RedisServer } from "./redis-server.js";

const DEADLINE_MS = 30_000;

/** A worker for a queue on this server. */
export async function work<Tasks extends object>(
  manager: Parameters<typeof createWorker<Tasks>>[0],
  { port }: Pick<RedisServer, "port">,
  { name }: Pick<Queue, "name">,
  options: Partial<JobWorkerOptions<Tasks>> = {},
): Promise<JobWorker> {
  const jobs = await createWorker(manager, name, { connection: { host: "127.0.0.1", port }, ...options });
  jobs.worker.on("error", () => {}); // without a listener BullMQ writes to the console
  return jobs;
}

/** A BullMQ queue that is closed at the end of its block. */
export class TestQueue extends Queue implements AsyncDisposable {
  constructor(server: RedisServer, name: string) {
    super(name, { connection: { host: "127.0.0.1", port: server.port } });
  }

  /** Waits until the job has this state, and returns the job as it is then. */
  async reaches(job: Job, state: JobState): Promise<Job> {
    const look = async (): Promise<Job | false> => {
      if ((await job.getState()) !== state) return false;
      return (await this.getJob(job.id!))!; // read after the state was reached
    };
    return eventually(look, DEADLINE_MS, `job ${job.id} (${job.name}) is ${state}`);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
