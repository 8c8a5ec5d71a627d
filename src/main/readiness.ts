import { setTimeout as pause } from "node:timers/promises";
import type { SharedClient } from "../clients/shared-client.js";
import type { RedisHandle } from "../commands/ioredis.js";
import { capacityOf } from "../config/capacity.js";
import type { Config } from "../config/options.js";
import { misled } from "../connection/foreign.js";
import { ConfigInvalidError, ThreadStartFailedError } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { helloFields } from "../core/replies.js";
import { isRetryableError } from "../core/retry.js";

/** What `ready()` proves about the primary client and its server, and what `health()` says after `ready()` was rejected. */
export class Readiness {
  readonly #config: Config;
  readonly #logger: Logger;
  readonly #primary: SharedClient;
  readonly #isServing: () => boolean;
  #failure: string | undefined;

  constructor(config: Config, logger: Logger, primary: SharedClient, isServing: () => boolean) {
    this.#config = config;
    this.#logger = logger;
    this.#primary = primary;
    this.#isServing = isServing;
  }

  /** The code of the error that rejected `ready()`, until the primary client is connected after all. */
  get failure(): string | undefined {
    return this.#failure;
  }

  async prove(areThreadsUp: Promise<unknown>): Promise<void> {
    try {
      await Promise.all([this.#primary.get(), areThreadsUp]);
      // The first client may have been replaced while the threads came up.
      await this.#primary.use(async (redis) => {
        await redis.connect(); // it may have been connected before, and be away now
        await judgeRole(redis, this.#config, this.#logger);
        await warnOfFewPlaces(redis, this.#config, this.#logger);
        await warnOfFewClients(redis, this.#config, this.#logger);
      });
      this.#failure = undefined;
    } catch (error) {
      // health() looks at the threads by itself.
      if (this.#isServing() && !(error instanceof ThreadStartFailedError)) this.#failed(error);
      throw error;
    }
  }

  #failed(error: unknown): void {
    const isFirst = this.#failure === undefined;
    this.#failure = errorCode(error);
    // A wrong server stays the wrong server, also once the client is connected.
    if (isFirst && !(error instanceof ConfigInvalidError)) void this.#untilConnected(isRetryableError(error));
  }

  /** A service that is not ready gets no traffic: without `tries` of its own it would not find out that Redis is back. */
  async #untilConnected(tries: boolean): Promise<void> {
    while (this.#isServing() && this.#primary.state !== "connected") {
      if (tries) await this.#primary.get().catch(() => {});
      await pause(this.#config.retry.maxDelayMs, undefined, { ref: false });
    }
    this.#failure = undefined;
  }
}

/**
 * Warns of a server that runs only some commands: a replica, or a node of a Cluster that is taken for a single server. It
 * is not known here which commands the tasks need.
 * @throws REDTHREAD_CONFIG_INVALID at a Sentinel, which runs no command of a task
 */
async function judgeRole(redis: RedisHandle, config: Config, logger: Logger): Promise<void> {
  const { clusterNodes, path, host, port } = config.redis;
  if (clusterNodes) return; // the Cluster's map has the roles
  // HELLO is allowed to every user. It fails on an old server and after a lost connection: then there is no advice.
  const { mode, role } = helloFields(await redis.hello().catch(() => {}));
  if (mode === "sentinel") {
    throw misled(`a Sentinel is at ${path ?? `${host}:${port}`}: name it in redis.sentinels, or name the server`);
  }
  const advice = "the server is a node of a Cluster: keys of others are MOVED without redis.clusterNodes";
  if (mode === "cluster") logger.warn(advice, { role });
  else if (role === "replica") logger.warn("the server is a replica: writes are READONLY", { role });
}

/**
 * Warns when the budget has too few places for the nodes of a Cluster, whose number is known only now. Every thread, the
 * primary client and its successor may need a connection to each node.
 */
async function warnOfFewPlaces(redis: RedisHandle, config: Config, logger: Logger): Promise<void> {
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

/** Warns when the server's maxclients cannot hold this process's connections: the server would only hang up on them. */
async function warnOfFewClients(redis: RedisHandle, config: Config, logger: Logger): Promise<void> {
  try {
    const { isEnough, ...numbers } = capacityOf(await redis.info("clients"), config);
    if (!isEnough) logger.warn("the server's maxclients may not hold the connections of this process", numbers);
  } catch {
    // An ACL without INFO, or a lost connection. Nothing depends on this advice.
  }
}
