import { capacityOf } from "../common/capacity.js";
import type { RedisHandle } from "../common/handle.js";
import type { Logger } from "../common/log.js";
import type { Config } from "../common/options.js";

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
