import { type Job, type JobState, Queue } from "bullmq";
import { eventually } from "./gate.js";
import type { RedisServer } from "./redis-server.js";

const DEADLINE_MS = 30_000;

/** A BullMQ queue that is closed at the end of its block. */
export class TestQueue extends Queue implements AsyncDisposable {
  constructor(server: RedisServer, name: string) {
    super(name, { connection: { host: "127.0.0.1", port: server.port } });
  }

  /** Waits until the job is in this state, and gives it as it is then. */
  async reaches(job: Job, state: JobState): Promise<Job> {
    const look = async (): Promise<Job | false> => {
      if ((await job.getState()) !== state) return false;
      return (await this.getJob(job.id!))!; // read after it got there
    };
    return eventually(look, DEADLINE_MS, `job ${job.id} (${job.name}) is ${state}`);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
