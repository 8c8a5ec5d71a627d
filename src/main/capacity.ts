import type { RedisHandle } from "../commands/ioredis.js";
import { capacityOf } from "../config/capacity.js";
import type { Config } from "../config/options.js";
import type { Logger } from "../core/log.js";

/**
 * Warns when a Cluster has more nodes than the budget has places for: every thread, the primary and its rotation may need
 * one to each. How many there are is known only now.
 */
export async function warnOfFewPlaces(redis: RedisHandle, config: Config, logger: Logger): Promise<void> {
  const { threads, connections } = config;
  if (!config.redis.clusterNodes || connections.max === undefined) return;
  const { clientOf } = await import("../clients/open-client.js");
  const client = clientOf(redis);
  if (!client || !("nodes" in client)) return;
  const { nodes } = client;
  const needed = (threads.count + 2) * nodes;
  if (connections.max >= needed) return;
  const advice = "connections.max has too few places for all threads to be connected to all nodes of the Cluster";
  logger.warn(advice, { max: connections.max, needed, nodes });
}

/** Warns when the server's maxclients cannot hold what this process may open: it would only ever say so by hanging up. */
export async function warnOfFewClients(redis: RedisHandle, config: Config, logger: Logger): Promise<void> {
  try {
    const { isEnough, ...numbers } = capacityOf(await redis.info("clients"), config);
    if (isEnough) return;
    logger.warn("the server's maxclients may not hold the connections of this process", numbers);
  } catch {
    // An ACL without INFO, or a connection lost meanwhile: this is advice, and nothing depends on it.
  }
}
