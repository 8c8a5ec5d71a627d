import type { RedisHandle } from "../commands/ioredis.js";
import type { Config } from "../config/options.js";
import type { NearField } from "../link/ledger.js";
import type { NearBuffers } from "./near-buffers.js";
import { NearCache } from "./near-cache.js";
import { NearMemory } from "./near-memory.js";
import { UnknownCommands } from "./unknown-commands.js";
import { watchOwnWrites } from "./own-writes.js";

export interface OpenNearOptions {
  readonly config: Config;
  readonly buffers: NearBuffers;
  /** Of the calling thread. */
  readonly threadId: number;
  readonly getRedis: () => Promise<RedisHandle>;
  readonly counter: (field: NearField) => () => void;
}

/** The near cache of the calling thread. From now on the thread's own writes are seen by all threads at once. */
export function openNear({ config, buffers, threadId, getRedis, counter }: OpenNearOptions): NearCache {
  const memory = new NearMemory(buffers);
  const unknown = new UnknownCommands(getRedis);
  const onlyReads = (name: string): boolean => unknown.onlyReads(name);
  const onClose = watchOwnWrites(memory, config.redis.keyPrefix, config.nearCache.prefixes!, onlyReads);
  return new NearCache({ config, buffers, memory, owner: ownerOf(threadId), getRedis, counter, onClose });
}

/** The owner of segments in a thread. The main thread has the id 0. */
export function ownerOf(threadId: number): number {
  return threadId + 1;
}
