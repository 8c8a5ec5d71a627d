import type { Redis } from "ioredis";

/** As redthread's redis.idleCheckMs. */
export const CHECK_IDLE_MS = 500;
export const lastUsed = new WeakMap<Redis, number>();

/** What redthread asks before it lends a client: open, and heard of lately or answering now. */
export function isUsable(redis: Redis): boolean | Promise<boolean> {
  if (redis.status !== "ready") return false;
  if (performance.now() - (lastUsed.get(redis) ?? 0) < CHECK_IDLE_MS) return true;
  return redis.ping().then(
    () => true,
    () => false,
  );
}
