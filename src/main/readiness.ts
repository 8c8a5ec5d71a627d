import { setTimeout as pause } from "node:timers/promises";
import type { SharedClient } from "../clients/shared-client.js";
import type { Config } from "../config/options.js";
import { ConfigInvalidError, ThreadStartFailedError } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { isRetryableError } from "../core/retry.js";
import { warnOfFewClients, warnOfFewPlaces } from "./capacity.js";
import { judgeRole } from "./role.js";

export interface ReadinessOptions {
  readonly config: Config;
  readonly logger: Logger;
  readonly primary: SharedClient;
  readonly isServing: () => boolean;
}

/** What `ready()` proves of the primary client, and what `health()` says after it has failed. */
export class Readiness {
  readonly #options: ReadinessOptions;
  #failure: string | undefined;

  constructor(options: ReadinessOptions) {
    this.#options = options;
  }

  /** The code of what `ready()` was rejected with, until the primary client is connected after all. */
  get failure(): string | undefined {
    return this.#failure;
  }

  async prove(areThreadsUp: Promise<unknown>): Promise<void> {
    const { config, logger, primary, isServing } = this.#options;
    try {
      await Promise.all([primary.get(), areThreadsUp]);
      // The client that was got may have been replaced while the threads came up.
      await primary.use(async (redis) => {
        await redis.connect(); // it may have been connected before, and be away now
        await judgeRole(redis, config, logger);
        await warnOfFewPlaces(redis, config, logger);
        await warnOfFewClients(redis, config, logger);
      });
      this.#failure = undefined;
    } catch (error) {
      // health() looks at the threads by itself.
      if (isServing() && !(error instanceof ThreadStartFailedError)) this.#failed(error);
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
    const { config, primary, isServing } = this.#options;
    while (isServing() && primary.state !== "connected") {
      if (tries) await primary.get().catch(() => {});
      await pause(config.retry.maxDelayMs, undefined, { ref: false });
    }
    this.#failure = undefined;
  }
}
