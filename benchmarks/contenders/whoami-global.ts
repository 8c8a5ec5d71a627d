import { threadId } from "node:worker_threads";
import { Redis } from "ioredis";
import { placeOfThread } from "./place.js";

/** A client per thread in a module variable, and which thread it is. */
const redis = new Redis(placeOfThread().port);

export default async function whoAmI(): Promise<number> {
  await redis.ping();
  return threadId;
}

let quitting: Promise<unknown> | undefined;

/** Called until every thread has said so: piscina has no way to call each thread once. */
export async function quit(): Promise<number> {
  await (quitting ??= redis.quit());
  return threadId;
}
