import { threadId } from "node:worker_threads";
import { Redis } from "ioredis";
import { blockLater } from "../../../test/support/block.js";
import { placeOfThread } from "../contender.js";
import { type Blocking, type Item, type Request, serve, work } from "../work.js";

const { port, redis: options = {} } = placeOfThread();

/** One client per thread in a module variable, as most people write it. Callers see a lost connection by their calls. */
const redis = new Redis(port, options).on("error", () => undefined);

export async function item(input: Item): Promise<number> {
  return work(redis, input);
}

export async function incr(key: string): Promise<number> {
  return redis.incr(key);
}

export async function request(input: Request): Promise<void> {
  await serve(redis, input);
}

export async function whoAmI(): Promise<number> {
  await redis.ping();
  return threadId;
}

let quitting: Promise<unknown> | undefined;

/** Called until every thread has answered, because piscina cannot call each thread once. */
export async function quit(): Promise<number> {
  await (quitting ??= redis.quit());
  return threadId;
}

/** As redthread's task of this name. */
export async function rejectedByBlock({ key, replies, blockMs }: Blocking): Promise<number> {
  await redis.ping(); // connected: the commands below are written at once
  const settled = Promise.allSettled(Array.from({ length: replies }, () => redis.getBuffer(key)));
  await blockLater(blockMs);
  return (await settled).filter(({ status }) => status === "rejected").length;
}
