import type { RedisHandle } from "../commands/ioredis.js";
import type { Config } from "../config/options.js";
import type { Logger } from "../core/log.js";
import { lockHolder } from "../core/names.js";
import { ConnectGate } from "../gate/connect-gate.js";
import { toErrorData } from "../link/error-serialization.js";
import type { KeeperHost } from "../locks/keeper-host.js";
import type { Locker } from "../locks/locker.js";
import type { Thread } from "./threads/thread.js";
import type { ThreadCredentials } from "./threads/thread-credentials.js";

export interface LocksOptions {
  readonly config: Config;
  readonly gateBuffer: SharedArrayBuffer;
  readonly gate: ConnectGate;
  readonly credentials: ThreadCredentials | undefined;
  readonly logger: Logger;
}

type GetRedis = (signal?: AbortSignal) => Promise<RedisHandle>;

/** The keeper, for all threads, and the main thread's own locks. Nothing of it is loaded or started before the first lock. */
export class Locks {
  readonly #options: LocksOptions;
  #host: Promise<KeeperHost> | undefined;
  #locker: Promise<Locker> | undefined;

  constructor(options: LocksOptions) {
    this.#options = options;
  }

  /** Of the main thread. */
  locker(getRedis: GetRedis): Promise<Locker> {
    return (this.#locker ??= this.#makeLocker(getRedis));
  }

  /** Gives the thread its port to the keeper. */
  async attach(thread: Thread): Promise<void> {
    try {
      const host = await this.#keeperHost();
      const port = await host.attach();
      thread.post({ type: "keeper", port }, [port]);
    } catch (error) {
      thread.post({ type: "keeperFailed", error: toErrorData(error) });
    }
  }

  /** Releases the locks of the main thread. Never rejects. */
  async release(ms: number): Promise<void> {
    await (await this.#locker)?.close(ms);
  }

  /** Ends the keeper, after all threads: it releases the locks of those that were ended. Never rejects. */
  async close(ms: number): Promise<void> {
    await (await this.#host)?.close(ms);
  }

  async #makeLocker(getRedis: GetRedis): Promise<Locker> {
    const { Locker } = await import("../locks/locker.js");
    const { config, logger } = this.#options;
    const thread = await this.#keeperHost();
    return new Locker({ thread, getRedis, redis: config.redis, holder: lockHolder(config.appName), logger });
  }

  #keeperHost(): Promise<KeeperHost> {
    return (this.#host ??= this.#makeHost());
  }

  async #makeHost(): Promise<KeeperHost> {
    const { KeeperHost } = await import("../locks/keeper-host.js");
    const { config, gateBuffer, gate, credentials, logger } = this.#options;
    const onGone = (): void => gate.sweep(ConnectGate.keeperRow(config));
    return new KeeperHost({ config, gate: gateBuffer, credentials, logger, onGone });
  }
}
