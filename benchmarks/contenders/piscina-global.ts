import { workerData } from "node:worker_threads";
import { Redis } from "ioredis";
import { type Item, work } from "../work.js";

/** What one writes by hand: a client per thread, in a module variable. */
const redis = new Redis((workerData as { port: number }).port);

export default async function item(input: Item): Promise<number> {
  return work(redis, input);
}
