import { Redis } from "ioredis";
import { type Item, work } from "../work.js";
import { placeOfThread } from "./place.js";

const { port } = placeOfThread();

/** Nothing is shared, nothing outlives its task: the simplest thing that is correct. */
export default async function item(input: Item): Promise<number> {
  // Half of a handshake's round trips: what a user would leave out once they hurt.
  const redis = new Redis(port, { enableReadyCheck: false, disableClientInfo: true });
  try {
    return await work(redis, input);
  } finally {
    redis.disconnect();
  }
}
