import type { SandboxedJob } from "bullmq";
import { Redis } from "ioredis";
import { type Item, work } from "../work.js";

let redis: Redis | undefined;

/** BullMQ's threads do not take our workerData, so that each job carries the port. */
export default async function item({ data }: SandboxedJob<Item & { port: number }>): Promise<number> {
  redis ??= new Redis(data.port);
  return work(redis, data);
}
