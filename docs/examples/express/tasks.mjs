import { createHash } from "node:crypto";
import { getRedis } from "redthread/worker";

/** @param {{ text: string, rounds: number }} input */
export async function digest({ text, rounds }) {
  const redis = await getRedis(); // this thread's one cached client
  const key = `digest:${rounds}:${text}`;
  const known = await redis.get(key);
  if (known !== null) return { digest: known, cached: true };

  let hash = text;
  for (let i = 0; i < rounds; i++) hash = createHash("sha256").update(hash).digest("hex"); // the CPU-heavy part
  await redis.set(key, hash, "EX", 60);
  return { digest: hash, cached: false };
}
