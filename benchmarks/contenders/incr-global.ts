import { Redis } from "ioredis";
import { placeOfThread } from "./place.js";

/** All of ioredis' defaults; what it says of a lost connection goes nowhere, as the load's callers hear of it. */
const redis = new Redis(placeOfThread().port).on("error", () => undefined);

export default async function incr(key: string): Promise<number> {
  return redis.incr(key);
}
