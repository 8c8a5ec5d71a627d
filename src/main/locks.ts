import type { RedisHandle } from "../commands/ioredis.js";
import { noRoomForLocks, noRoomForReplicatedLocks } from "../config/capacity.js";
import type { Config } from "../config/options.js";
import { sharedClock } from "../core/clock.js";
import { ConfigInvalidError, ShuttingDownError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import { ConnectGate } from "../gate/connect-gate.js";
import { toErrorData } from "../link/error-serialization.js";
import type { KeeperHost } from "../locks/keeper-host.js";
import type { Locker } from "../locks/locker.js";
import type { NearBuffers } from "../near/near-buffers.js";
import type { KeeperStats } from "./observe/stats.js";
import type { Thread } from "./threads/thread.js";
import type { ThreadCredentials } from "./threads/thread-credentials.js";

export interface LocksOptions {
  readonly config: Config;
  readonly gateBuffer: SharedArrayBuffer;
  readonly gate: ConnectGate;
  readonly credentials: ThreadCredentials | undefined;
  readonly logger: Logger;
  /** The keeper keeps it true, and lives as long as the manager. */
  readonly near?: NearBuffers | undefined;
}

type GetRedis = (signal?: AbortSignal) => Promise<RedisHandle>;

/** The keeper, for all threads, and the main thread's own locks. Nothing of it is loaded or started before the first lock. */
export class Locks {
  readonly #options: LocksOptions;
  #hosting: Promise<KeeperHost> | undefined;
  #host: KeeperHost | undefined;
  #locker: Promise<Locker> | undefined;
  #isClosed = false;

  constructor(options: LocksOptions) {
    this.#options = options;
    if (options.near) void this.#keeperHost().then((host) => host.begin());
  }

  /** Null before the first lock. */
  get stats(): KeeperStats | null {
    const { ledger, isKeeping = false, waiting = 0 } = this.#host ?? {};
    if (!ledger) return null;
    const alive = ledger.get("open") > 0 ? "connected" : "connecting";
    return {
      state: isKeeping ? alive : "ended",
      held: ledger.held(sharedClock()),
      waiting,
      extended: ledger.get("extended"),
      extensionFailures: ledger.get("extensionFailures"),
      lost: ledger.losses,
    };
  }

  /** How many connections the keeper has. */
  get open(): number {
    const ledger = this.#host?.ledger;
    return ledger ? ledger.get("open") + ledger.get("replicasOpen") : 0;
  }

  /** Why the locks that are held cannot be extended at the moment, if so. */
  get problem(): string | undefined {
    const { held = 0, state } = this.stats ?? {};
    if (held === 0 || state === "connected") return undefined;
    return `locks cannot be extended: ${state === "ended" ? "no keeper runs" : "the keeper is connecting"}`;
  }

  /**
   * The locks of the main thread.
   * @throws REDTHREAD_CONFIG_INVALID if `connections.max` has no place for the keeper
   */
  async locker(getRedis: GetRedis): Promise<Locker> {
    this.#refuse();
    return (this.#locker ??= this.#makeLocker(getRedis));
  }

  /** Gives the thread its port to the keeper's host. */
  async attach(thread: Thread): Promise<void> {
    try {
      this.#refuse();
      const host = await this.#keeperHost();
      const { port, ledger } = await host.attach();
      thread.post({ type: "keeper", port, ledger }, [port]);
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
    this.#isClosed = true; // no later caller may start a keeper that nothing would end
    await (await this.#hosting)?.close(ms);
  }

  async #makeLocker(getRedis: GetRedis): Promise<Locker> {
    const { openLocker } = await import("../locks/open-locker.js");
    const { config, logger } = this.#options;
    return openLocker({ config, logger, getRedis, thread: await this.#keeperHost() });
  }

  #refuse(): void {
    if (this.#isClosed) throw new ShuttingDownError("the manager takes no more locks", { outcome: "not-sent" });
    const problem = noRoomForLocks(this.#options.config);
    if (problem !== undefined) throw new ConfigInvalidError(problem, { outcome: "not-sent" });
  }

  #keeperHost(): Promise<KeeperHost> {
    return (this.#hosting ??= this.#makeHost());
  }

  async #makeHost(): Promise<KeeperHost> {
    const { KeeperHost } = await import("../locks/keeper-host.js");
    const { config, gateBuffer, gate, credentials, logger, near } = this.#options;
    const memory = near && new (await import("../near/near-memory.js")).NearMemory(near);
    const onGone = (): void => gate.sweep(ConnectGate.keeperRow(config));
    const replicasProblem = noRoomForReplicatedLocks(config);
    return (this.#host = new KeeperHost({
      config,
      gate: gateBuffer,
      replicasProblem,
      credentials,
      logger,
      near: memory,
      onGone,
    }));
  }
}
