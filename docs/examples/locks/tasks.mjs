import { createHash } from "node:crypto";
import { getRedis, withLock } from "redthread/worker";

/** How often the computation asks whether it still has the lock. */
const ROUNDS_PER_CHECK = 1_000;

/** One process computes the report; all others wait for it, and read what it has stored. */
export async function report({ day, rounds }, { signal }) {
  const redis = await getRedis();
  const key = `report:${day}`;
  // The ttl is shorter than the computation, so that the lock of a machine that has crashed is free soon.
  return withLock(`lock:${key}`, { ttlMs: 1_000, waitMs: 60_000, signal }, async (lock) => {
    const known = await redis.hget(key, "digest");
    if (known !== null) return { day, digest: known, isComputed: false };

    let digest = day;
    for (let i = 0; i < rounds; i++) {
      if (i % ROUNDS_PER_CHECK === 0) lock.assertHeld(); // without this a lost lock would cost the whole computation
      digest = createHash("sha256").update(digest).digest("hex");
    }
    // A write can be delayed on its way until another process has the lock. The fence makes the script refuse it then.
    const isStored = await redis.storeReport(key, lock.fence, digest);
    if (isStored === 0) throw new Error(`the report of ${day} was stored by a later holder of the lock`);
    return { day, digest, isComputed: true };
  });
}
