import type { RedisHandle } from "../commands/ioredis.js";
import type { Config } from "../config/options.js";
import { misled } from "../connection/foreign.js";
import type { Logger } from "../core/log.js";
import { helloFields } from "../core/replies.js";

/**
 * Warns of a server at which only some commands run: a replica, or a node of a Cluster that is taken for a single server. Which
 * ones the tasks need is not known here.
 * @throws REDTHREAD_CONFIG_INVALID at a Sentinel, which runs none
 */
export async function judgeRole(redis: RedisHandle, config: Config, logger: Logger): Promise<void> {
  const { clusterNodes, path, host, port } = config.redis;
  if (clusterNodes) return; // their roles are in the map
  // HELLO is allowed to every user. Where it fails, this advice is not given: an old server, or a connection lost meanwhile.
  const { mode, role } = helloFields(await redis.hello().catch(() => {}));
  if (mode === "sentinel") {
    throw misled(`a Sentinel is at ${path ?? `${host}:${port}`}: name it in redis.sentinels, or name the server`);
  }
  if (mode === "cluster") {
    logger.warn("the server is a node of a Cluster: keys of others are MOVED without redis.clusterNodes", {
      role,
    });
  } else if (role === "replica") logger.warn("the server is a replica: writes are READONLY", { role });
}
