import { LRUCache } from "lru-cache";
import { createClient } from "redis";
import { getRedis, near } from "redthread/worker";

/** Gives the value of a key, from wherever it is. */
export type Read = (key: string) => Promise<unknown>;

export interface Way {
  readonly read: Read;
  /** The same at once, where the library can do it. */
  readonly peek?: (key: string) => unknown;
}

const MAX_BYTES = 8 * 2 ** 20;

/** The ways to read a key in this thread: each with a cache of its own, and most with the thread's client of redthread. */
export async function makeWays(): Promise<Readonly<Record<WayName, Way>>> {
  const redis = await getRedis();
  const nodeRedis = await createClient({
    url: `redis://127.0.0.1:${redis.options.port}`,
    RESP: 3,
    clientSideCache: { ttl: 0, maxEntries: 10_000, evictPolicy: "LRU" },
  }).connect();
  const map = new Map<string, string>();
  const objects = new Map<string, unknown>();
  const copies = new Map<string, readonly [from: number, to: number]>();
  const memory = Buffer.from(new SharedArrayBuffer(MAX_BYTES));
  let used = 0;
  const lru = new LRUCache<string, string>({ maxSize: MAX_BYTES, sizeCalculation: ({ length }) => length });
  return {
    near: { read: (key) => near.get(key), peek: (key) => near.peek(key) },
    "near json": { read: (key) => near.json(key) },
    GET: { read: (key) => redis.get(key) },
    "GET json": { read: async (key) => parsed(await redis.get(key)) },
    "node-redis": { read: (key) => nodeRedis.get(key) },
    "node-redis json": { read: async (key) => parsed(await nodeRedis.get(key)) },
    lru: {
      async read(key) {
        const known = lru.get(key);
        if (known !== undefined) return known;
        const value = await redis.get(key);
        if (value !== null) lru.set(key, value);
        return value;
      },
      peek: (key) => lru.get(key),
    },
    // The least that any cache in shared memory must do: copy bytes to a string, with no look at lease, version or key.
    copy: {
      async read(key) {
        const known = copies.get(key);
        if (known) return memory.toString("latin1", ...known);
        const value = (await redis.getBuffer(key))!;
        memory.set(value, used);
        copies.set(key, [used, (used += value.length)]);
        return value.toString("latin1");
      },
    },
    Map: {
      async read(key) {
        const known = map.get(key);
        if (known !== undefined) return known;
        const value = await redis.get(key);
        if (value !== null) map.set(key, value);
        return value;
      },
      peek: (key) => map.get(key),
    },
    "Map json": {
      async read(key) {
        const known = objects.get(key);
        if (known !== undefined) return known;
        const value = parsed(await redis.get(key));
        objects.set(key, value);
        return value;
      },
    },
  };
}

export type WayName =
  | "near"
  | "near json"
  | "GET"
  | "GET json"
  | "node-redis"
  | "node-redis json"
  | "lru"
  | "copy"
  | "Map"
  | "Map json";

function parsed(text: string | null): unknown {
  return text === null ? null : JSON.parse(text);
}
