import { randomUUID } from "node:crypto";
import Redlock from "redlock";
import { createLock, IoredisAdapter } from "redlock-universal";
import { getRedis, type RedisHandle, withLock } from "redthread/worker";
import { ACQUIRE, RELEASE } from "../../src/locks/lock-scripts.js";

export interface Wanted {
  readonly key: string;
  readonly ttlMs: number;
  /** Whether it waits for the lock, or tries once. */
  readonly waits: boolean;
}

/** Whether the holder believes that it holds the lock. */
export type IsHeld = () => boolean;
/** Runs `use` while it holds the lock. Rejects if the lock is another's. */
type Way = <T>(wanted: Wanted, use: (isHeld: IsHeld) => Promise<T>) => Promise<T>;

/** A client with the scripts that are sent by hand. */
type Scripts = Record<"acquireByHand" | "releaseByHand" | "compareAndDelete", (...args: unknown[]) => Promise<unknown>>;

const COMPARE_AND_DELETE =
  "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

const DAY_MS = 24 * 3_600_000;
/** The pause before a caller that locks by hand tries again. */
const RETRY_MS = 10;
/** redlock extends a lock when this is left of its ttl; with its default, 500, it refuses a ttl of 500 ms. */
const REDLOCK_LEFT_MS = { most: 500, share: 0.4 };

/** By contender: all of them lock with this thread's client of redthread. */
const MAKERS: Readonly<Record<string, (redis: RedisHandle) => Way>> = {
  redthread:
    () =>
    ({ key, ttlMs, waits }, use) =>
      withLock(key, { ttlMs, waitMs: waits ? DAY_MS : 0 }, (lock) => use(() => lock.isHeld)),
  redlock(redis) {
    const redlock = new Redlock([redis]);
    return ({ key, ttlMs, waits }, use) => {
      const settings = {
        retryCount: waits ? -1 : 0,
        automaticExtensionThreshold: Math.min(REDLOCK_LEFT_MS.most, ttlMs * REDLOCK_LEFT_MS.share),
      };
      return redlock.using([key], ttlMs, settings, (signal) => use(() => !signal.aborted));
    };
  },
  "redlock-universal"(redis) {
    const adapter = new IoredisAdapter(redis);
    return ({ key, ttlMs, waits }, use) => {
      const lock = createLock({ adapter, key, ttl: ttlMs, retryAttempts: waits ? Number.MAX_SAFE_INTEGER : 0 });
      return lock.using((signal) => use(() => !signal.aborted));
    };
  },
  "same scripts by hand"(redis) {
    redis.defineCommand("acquireByHand", ACQUIRE);
    redis.defineCommand("releaseByHand", RELEASE);
    const scripts = redis as unknown as Scripts;
    return byHand({
      async acquire(key, token, ttlMs) {
        const [isAcquired] = (await scripts.acquireByHand(
          key,
          `{${key}}:fence`,
          `${token} `,
          ttlMs,
          DAY_MS,
          "a name",
        )) as [number];
        return isAcquired === 1;
      },
      async release(key, token) {
        const isReleased = await scripts.releaseByHand(key, token, `{${key}}:released`);
        if (isReleased !== 1) throw new Error("the script has not released the lock");
      },
    });
  },
  "bare SET NX"(redis) {
    redis.defineCommand("compareAndDelete", { lua: COMPARE_AND_DELETE, numberOfKeys: 1 });
    const scripts = redis as unknown as Scripts;
    return byHand({
      acquire: async (key, token, ttlMs) => (await redis.set(key, token, "PX", ttlMs, "NX")) === "OK",
      release: (key, token) => scripts.compareAndDelete(key, token),
    });
  },
};

const made = new Map<string, Promise<Way>>();

export function wayOf(contender: string): Promise<Way> {
  const way = made.get(contender) ?? getRedis().then((redis) => MAKERS[contender]!(redis));
  made.set(contender, way);
  return way;
}

interface ByHand {
  readonly acquire: (key: string, token: string, ttlMs: number) => Promise<boolean>;
  readonly release: (key: string, token: string) => Promise<unknown>;
}

/** Nothing extends the lock. */
function byHand({ acquire, release }: ByHand): Way {
  return async ({ key, ttlMs, waits }, use) => {
    const token = randomUUID();
    while (!(await acquire(key, token, ttlMs))) {
      if (!waits) throw new Error("the lock is another's");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
    try {
      return await use(() => true);
    } finally {
      await release(key, token);
    }
  };
}
