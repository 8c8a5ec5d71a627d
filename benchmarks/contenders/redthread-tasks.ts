import { getRedis } from "redthread/worker";
import { type Item, work } from "../work.js";

export async function item(input: Item): Promise<number> {
  return work(await getRedis(), input);
}

/** What the library alone costs. */
export function nothing(): number {
  return 0;
}
