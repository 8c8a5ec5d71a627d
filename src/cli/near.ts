import { clientOf } from "../clients/open-client.js";
import type { RedisHandle } from "../commands/ioredis.js";
import type { Config } from "../config/options.js";
import { isReplyError, replyCode, roleIn, runIdIn } from "../core/replies.js";
import { type Finding, ok, skip, warn } from "./report.js";

const OFF = "the cache is off, and every read asks Redis";
const NOT_KEPT = "nothing is kept, and every read asks Redis";

/** Tries what the near cache needs on a connection of its own. Without it each read is a plain GET, so that nothing fails. */
export async function tryNearCache(redis: RedisHandle, name: string, config: Config): Promise<Finding> {
  const check = "near cache";
  const { prefixes } = config.nearCache;
  if (!prefixes) return skip(check, "none configured");
  const own = clientOf(redis)!.redis;
  const missing: string[] = [];
  const attempt = async (right: string, without: string, asking: Promise<unknown>): Promise<unknown> => {
    try {
      return await asking;
    } catch (error) {
      if (!isReplyError(error)) throw error;
      missing.push(`${right} (${replyCode(error)}): ${without}`);
      return undefined;
    }
  };
  if (!own.speaksResp3) missing.push(`RESP3: ${OFF}`);
  const info = await attempt("INFO", OFF, own.call("INFO", "server"));
  if (info !== undefined && runIdIn(info) === undefined) missing.push(`run_id of INFO server: ${OFF}`);
  const role = roleIn(await attempt("INFO", OFF, own.call("INFO", "replication")));
  if (role === "slave") missing.push(`a master: ${OFF}`);
  if (own.speaksResp3) {
    const each = prefixes.flatMap((prefix) => ["PREFIX", config.redis.keyPrefix + prefix]);
    await attempt("CLIENT TRACKING", OFF, own.call("CLIENT", "TRACKING", "ON", "BCAST", ...each));
    await own.call("CLIENT", "TRACKING", "OFF").catch(() => {}); // refused as before, or the next command fails as well
  }
  for (const prefix of prefixes) {
    await attempt(`PTTL ${prefix}*`, NOT_KEPT, redis.pttl(prefix + name));
    await attempt(`GET ${prefix}*`, "no read succeeds", redis.get(prefix + name));
  }
  if (missing.length === 0)
    return ok(check, `may send INFO, CLIENT TRACKING, and PTTL and GET of ${prefixes.join("*, ")}*`);
  const found = [...new Set(missing)].join("; ");
  return warn(
    check,
    `missing: ${found}`,
    "allow these to the ACL user, and use RESP3 and a master; or do without nearCache",
  );
}
