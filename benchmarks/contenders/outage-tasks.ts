import { getRedis, withDedicated, type TaskContext } from "redthread/worker";
import { blockLater } from "../../test/support/block.js";
import type { BlockedInput } from "./blocked-global.js";

/** Tells in which thread it ran. */
export async function incr(key: string, { threadId }: TaskContext): Promise<number> {
  await (await getRedis()).incr(key);
  return threadId;
}

/** Through the thread's shared client and a leased one: whoever answers has both. */
export async function incrTwice(key: string, context: TaskContext): Promise<number> {
  await withDedicated((redis) => redis.incr(key));
  return incr(key, context);
}

/** How many of the replies to commands that were written before the block are given up. */
export async function rejectedByBlock({ key, replies, blockMs }: BlockedInput): Promise<number> {
  const redis = await getRedis();
  const waiting = Array.from({ length: replies }, () => redis.getBuffer(key));
  const settled = Promise.allSettled(waiting);
  await blockLater(blockMs);
  return (await settled).filter(({ status }) => status === "rejected").length;
}
