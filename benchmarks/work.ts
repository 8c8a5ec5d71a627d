import { createHash } from "node:crypto";
import type { Redis } from "ioredis";

export interface Item {
  readonly key: string;
  readonly rounds: number;
}

/** The unit of work of every contender: GET 4 kB, `rounds` x sha256, SET. */
export async function work(redis: Redis, { key, rounds }: Item): Promise<number> {
  const value = (await redis.getBuffer(key)) ?? Buffer.alloc(0);
  let digest: Buffer = value;
  for (let i = 0; i < rounds; i++) digest = createHash("sha256").update(digest).digest();
  await redis.set(`${key}:out`, digest.subarray(0, 32));
  return value.length;
}
