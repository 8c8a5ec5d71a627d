import { setTimeout as sleep } from "node:timers/promises";
import { getRedis, near } from "redthread/worker";
import { seeded } from "../../test/support/seeded.js";
import type { NearMemoryInput } from "./child.js";

const AT_ONCE = 16;
const SAMPLES = 20_000;

const kept = new Map<string, string | null>();

/** Each thread reads all keys in an order of its own. */
export async function readAll({
  way,
  keys,
  seed,
}: Pick<NearMemoryInput, "way" | "keys"> & { seed: number }): Promise<void> {
  const redis = await getRedis();
  const read = {
    GET: (key: string) => redis.get(key),
    near: (key: string) => near.get(key),
    Map: async (key: string) => kept.set(key, await redis.get(key)),
  }[way];
  const order = shuffled(keys, seed);
  for (let i = 0; i < keys; i += AT_ONCE) {
    await Promise.all([...order.subarray(i, i + AT_ONCE)].map((key) => read(`near:${key}`)));
  }
}

/** The share of random keys that are found. */
export async function hitShare({ keys, seed }: { keys: number; seed: number }): Promise<number> {
  const random = seeded(seed);
  let hits = 0;
  for (let i = 0; i < SAMPLES; i++) {
    if (near.peek(`near:${Math.floor(random() * keys)}`) !== undefined) hits++;
  }
  return hits / SAMPLES;
}

/** Collects this thread's garbage, and waits for the thread to give it back. */
export async function collect(): Promise<void> {
  globalThis.gc?.();
  await sleep(100);
}

function shuffled(count: number, seed: number): Uint32Array {
  const random = seeded(seed);
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const other = Math.floor(random() * (i + 1));
    [order[i], order[other]] = [order[other]!, order[i]!];
  }
  return order;
}
