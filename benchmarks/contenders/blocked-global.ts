import { workerData } from "node:worker_threads";
import { Redis } from "ioredis";
import { blockLater } from "../../test/support/block.js";
import type { Place } from "./place.js";

export interface BlockedInput {
  readonly key: string;
  readonly replies: number;
  readonly blockMs: number;
}

const { port, commandTimeoutMs } = workerData as Place & { readonly commandTimeoutMs: number };
const redis = new Redis(port, { commandTimeout: commandTimeoutMs });

export default async function rejectedByBlock({ key, replies, blockMs }: BlockedInput): Promise<number> {
  await redis.ping(); // connected: what waits below has been written
  const waiting = Array.from({ length: replies }, () => redis.getBuffer(key));
  const settled = Promise.allSettled(waiting);
  await blockLater(blockMs);
  return (await settled).filter(({ status }) => status === "rejected").length;
}
