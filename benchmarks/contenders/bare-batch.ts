import { type Item, work } from "../work.js";
import { CorkedRedis } from "./corked-redis.js";
import { placeOfThread } from "./place.js";

/** No queue for an absent server, no resending, no ready check: as little as there can be around a socket. */
const redis = new CorkedRedis(placeOfThread().port, { autoResendUnfulfilledCommands: false, enableReadyCheck: false });

/** No envelope: one task that fails fails the whole batch. */
export default async function batch(items: readonly Item[]): Promise<number[]> {
  return Promise.all(items.map((item) => work(redis, item)));
}
