import type { RedisHandle } from "../common/handle.js";
import type { Logger } from "../common/log.js";
import type { Config } from "../common/options.js";

/** Warns when the server's maxclients cannot hold what this process may open: it would only ever say so by hanging up. */
export async function warnOfFewClients(redis: RedisHandle, config: Config, logger: Logger): Promise<void> {
  try {
    const info = await redis.info("clients");
    const maxclients = Number(/^maxclients:(\d+)/m.exec(info)?.[1] ?? Infinity);
    const others = Number(/^connected_clients:(\d+)/m.exec(info)?.[1] ?? 1) - 1;
    const needed = mostConnections(config);
    if (others + needed <= maxclients) return;
    logger.warn("the server's maxclients may not hold the connections of this process", { maxclients, others, needed });
  } catch {
    // An ACL without INFO, or a connection lost meanwhile: this is advice, and nothing depends on it.
  }
}

/** One per thread (and per successor of one that is recycled) and its dedicated ones, the primary and its successor, the subscriber. */
function mostConnections({ threads, dedicated, connections }: Config): number {
  const isRecycling = threads.maxTasks !== undefined || threads.maxHeapMb !== undefined;
  return connections.max ?? (threads.count + Number(isRecycling)) * (1 + dedicated.max) + 3;
}
