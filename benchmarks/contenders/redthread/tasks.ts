import { acquireDedicated, getRedis, type TaskContext, withDedicated } from "redthread/worker";
import { blockLater } from "../../../test/support/block.js";
import { type Blocking, type Item, type Request, serve, work } from "../work.js";

export async function item(input: Item): Promise<number> {
  return work(await getRedis(), input);
}

/** What the library costs without Redis. */
export function nothing(): number {
  return 0;
}

export async function request(input: Request): Promise<void> {
  await serve(await getRedis(), input);
}

export async function whoAmI(_: undefined, { threadId }: TaskContext): Promise<number> {
  await (await getRedis()).ping();
  return threadId;
}

/** Acquires so many leases, and never releases them. */
export async function hold(leases: number): Promise<void> {
  await Promise.all(Array.from({ length: leases }, () => acquireDedicated()));
}

/** Returns the id of the thread that it ran in. */
export async function incr(key: string, { threadId }: TaskContext): Promise<number> {
  await (await getRedis()).incr(key);
  return threadId;
}

/** Uses the thread's shared client and a leased one: a thread that answers has both. */
export async function incrTwice(key: string, context: TaskContext): Promise<number> {
  await withDedicated((redis) => redis.incr(key));
  return incr(key, context);
}

/** How many replies are given up when the thread is busy after it has written their commands. */
export async function rejectedByBlock({ key, replies, blockMs }: Blocking): Promise<number> {
  const redis = await getRedis();
  const settled = Promise.allSettled(Array.from({ length: replies }, () => redis.getBuffer(key)));
  await blockLater(blockMs);
  return (await settled).filter(({ status }) => status === "rejected").length;
}

export async function get(key: string): Promise<number> {
  return (await (await getRedis()).getBuffer(key))?.length ?? 0;
}

export async function getMany({ key, depth, gets }: { key: string; depth: number; gets: number }): Promise<void> {
  const redis = await getRedis();
  for (let left = gets; left > 0; left -= depth) {
    await Promise.all(Array.from({ length: Math.min(depth, left) }, () => redis.getBuffer(key)));
  }
}
