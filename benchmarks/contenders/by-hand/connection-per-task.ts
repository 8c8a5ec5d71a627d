import { Redis } from "ioredis";
import { placeOfThread } from "../contender.js";
import { type Item, work } from "../work.js";

const { port } = placeOfThread();

/** The simplest correct way: tasks share nothing, and nothing outlives its task. */
export default async function item(input: Item): Promise<number> {
  // Half of a handshake's round trips: users leave these out as soon as they notice them.
  const redis = new Redis(port, { enableReadyCheck: false, disableClientInfo: true });
  try {
    return await work(redis, input);
  } finally {
    redis.disconnect();
  }
}
