import { Redis } from "ioredis";
import { type Item, work } from "../work.js";
import { placeOfThread } from "./place.js";

/** What one writes by hand: a client per thread, in a module variable. */
const redis = new Redis(placeOfThread().port);

export default async function item(input: Item): Promise<number> {
  return work(redis, input);
}
