import { threadId } from "node:worker_threads";
import { SharedClient } from "../common/cache.js";
import { Client, type ClientOptions, type ConnectionState } from "../common/client.js";
import type { RedisHandle } from "../common/handle.js";
import type { LedgerRow } from "../common/ledger.js";
import type { Logger } from "../common/log.js";
import { connectionName } from "../common/names.js";
import type { Config } from "../common/options.js";
import { ClientPool, type Lease } from "../common/pool.js";

export interface DedicatedLease extends AsyncDisposable {
  readonly redis: RedisHandle;
  /** Gives the client back, repaired or closed; idempotent, never rejects. */
  release(): Promise<void>;
}

export interface ThreadClientsOptions {
  readonly config: Config;
  readonly logger: Logger;
  /** Absent in a thread that no manager started. */
  readonly row?: LedgerRow;
}

/** All the Redis clients of one thread: the cached one that its tasks share, and the dedicated ones. */
export class ThreadClients {
  readonly #options: ThreadClientsOptions;
  readonly #shared: SharedClient;
  readonly #dedicated: ClientPool<Client>;

  constructor(options: ThreadClientsOptions) {
    this.#options = options;
    const { redis, dedicated, retry, shutdown } = options.config;
    this.#shared = new SharedClient({
      open: () => this.#open("thread"),
      closeMs: shutdown.closeMs,
      idleCheckMs: redis.idleCheckMs,
      onHit: () => options.row?.add("cacheHits", 1),
    });
    this.#dedicated = new ClientPool<Client>(
      {
        open: () => this.#open("dedicated"),
        isAlive: (client) => client.isAlive(),
        check: (client) => client.check(),
        reset: (client) => client.reset(),
        close: (client) => client.close(shutdown.closeMs),
      },
      { ...dedicated, name: `dedicated clients of thread ${threadId}`, idleCheckMs: redis.idleCheckMs, retry },
    );
  }

  getRedis(signal?: AbortSignal): Promise<RedisHandle> {
    this.#options.row?.add("acquires", 1);
    return this.#shared.get(signal);
  }

  async acquireDedicated(signal?: AbortSignal): Promise<DedicatedLease> {
    const lease = await this.#lease(signal);
    const release = async (): Promise<void> => {
      await lease.release();
      this.#report();
    };
    return { redis: lease.client.redis, release, [Symbol.asyncDispose]: release };
  }

  async withDedicated<T>(fn: (redis: RedisHandle) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const lease = await this.acquireDedicated(signal);
    try {
      return await fn(lease.redis);
    } finally {
      await lease.release();
    }
  }

  async close(ms: number): Promise<void> {
    await Promise.all([this.#shared.close(ms), this.#dedicated.close(ms)]);
    this.#report();
  }

  async #lease(signal?: AbortSignal): Promise<Lease<Client>> {
    this.#options.row?.add("acquires", 1);
    const leased = this.#dedicated.acquire(signal);
    this.#report();
    try {
      return await leased;
    } finally {
      this.#report();
    }
  }

  #open(role: "thread" | "dedicated"): Promise<Client> {
    const { config, logger } = this.#options;
    const { redis, retry, appName, shutdown } = config;
    const options: ClientOptions = {
      ...{ redis, retry, role, logger, name: connectionName(appName, role) },
      onState: (state, previous) => this.#count(state, previous),
      onReconnected: () => this.#options.row?.add("reconnects", 1),
    };
    return Client.open(options, shutdown.closeMs);
  }

  #count(state: ConnectionState, previous: ConnectionState): void {
    const { row } = this.#options;
    if (previous === "connected") row?.add("open", -1);
    if (previous === "connecting") row?.add("connecting", -1);
    if (state === "connected") row?.add("open", 1);
    if (state === "connecting") row?.add("connecting", 1);
  }

  #report(): void {
    const { row } = this.#options;
    if (!row) return;
    const { out, idle, waiting } = this.#dedicated.stats();
    row.set("dedicatedOut", out);
    row.set("dedicatedIdle", idle);
    row.set("dedicatedWaiting", waiting);
  }
}
