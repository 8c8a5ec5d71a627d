import type { Redis } from "ioredis";

export interface Request {
  readonly key: string;
  /** Between its two commands. */
  readonly ms: number;
}

/** A request that is under way for a while, and needs Redis at its end. */
export async function serve(redis: Redis, { key, ms }: Request): Promise<void> {
  await redis.get(key);
  await new Promise((resolve) => setTimeout(resolve, ms));
  await redis.incr(key);
}
