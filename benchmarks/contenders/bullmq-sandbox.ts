import type { SandboxedJob } from "bullmq";
import { Redis } from "ioredis";
import { type Item, work } from "../work.js";

let redis: Redis | undefined;

/** BullMQ's thread has no workerData of ours: the port comes with each job. */
export default async function item({ data }: SandboxedJob<Item & { port: number }>): Promise<number> {
  redis ??= new Redis(data.port);
  return work(redis, data);
}
