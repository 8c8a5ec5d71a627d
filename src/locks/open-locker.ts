import { hostname } from "node:os";
import { threadId } from "node:worker_threads";
import type { RedisHandle } from "../commands/ioredis.js";
import type { Config } from "../config/options.js";
import type { Logger } from "../core/log.js";
import { KeeperHost } from "./keeper-host.js";
import { Locker, type LockerThread } from "./locker.js";

export interface OpenLockerOptions {
  readonly config: Config;
  readonly logger: Logger;
  readonly getRedis: (signal?: AbortSignal) => Promise<RedisHandle>;
  /** Where the keeper is. Without it the thread has a keeper of its own, which ends with the locker. */
  readonly thread?: LockerThread | undefined;
}

/** The locks of the calling thread. */
export function openLocker({ config, logger, getRedis, thread }: OpenLockerOptions): Locker {
  const { redis, appName } = config;
  const holder = [appName, hostname(), process.pid, threadId].join(":");
  const shared = { redis, getRedis, holder, logger };
  if (thread) return new Locker({ ...shared, thread });
  const host = new KeeperHost({ config, logger });
  return new Locker({ ...shared, thread: host, closeKeeper: (ms) => host.close(ms) });
}
