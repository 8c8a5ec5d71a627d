import { threadId } from "node:worker_threads";
import { type AnyClient, openClient, type OpenOptions } from "../clients/open-client.js";
import { SharedClient } from "../clients/shared-client.js";
import type { RedisHandle } from "../commands/ioredis.js";
import type { Config, RetryConfig } from "../config/options.js";
import type { ConnectionState } from "../connection/connection-state.js";
import type { Logins } from "../connection/logins.js";
import type { Logger } from "../core/log.js";
import { type ClientRole, connectionName } from "../core/names.js";
import { onAbort } from "../core/waiting.js";
import { ConnectGate, ownGate } from "../gate/connect-gate.js";
import type { LedgerField, LedgerRow } from "../link/ledger.js";
import { ClientPool, type CloseReason, type Lease } from "../pool/pool.js";

export interface DedicatedLease extends AsyncDisposable {
  readonly redis: RedisHandle;
  /** Gives the client back, repaired or closed; idempotent, never rejects. */
  release(): Promise<void>;
}

export interface ThreadClientsOptions {
  readonly config: Config;
  readonly logger: Logger;
  /** What the manager gave this thread; absent in a thread that none started. */
  readonly managed?: {
    readonly row: LedgerRow;
    readonly gate: SharedArrayBuffer;
    readonly logins: Logins | undefined;
  };
}

const CLOSED_FIELD = {
  idle: "closedIdle",
  lifetime: "closedLifetime",
  dirty: "closedDirty",
  dead: "closedDead",
  failed: "closedFailed",
  shutdown: "closedShutdown",
} as const satisfies Record<CloseReason, LedgerField>;

/** All the Redis clients of one thread: the cached one that its tasks share, and the dedicated ones. */
export class ThreadClients {
  readonly #options: ThreadClientsOptions;
  readonly #row: LedgerRow | undefined;
  readonly #countAcquire: (() => void) | undefined;
  readonly #gate: ConnectGate;
  readonly #shared: SharedClient;
  readonly #dedicated: ClientPool<AnyClient>;
  #closeMs: number;

  constructor(options: ThreadClientsOptions) {
    this.#options = options;
    const { config, logger, managed } = options;
    const { redis, dedicated, retry, shutdown } = config;
    this.#row = managed?.row;
    this.#countAcquire = managed?.row.counter("acquires");
    this.#gate = managed ? new ConnectGate(managed.gate, config, managed.row.index) : ownGate(config);
    this.#closeMs = shutdown.closeMs;
    this.#shared = new SharedClient({
      open: (signal, mayBeAway) => this.#open("thread", retry, signal, mayBeAway),
      closeMs: shutdown.closeMs,
      idleCheckMs: redis.idleCheckMs,
      onHit: managed?.row.counter("cacheHits"),
    });
    this.#dedicated = new ClientPool<AnyClient>(
      {
        // One attempt: the pool paces and counts them, within its own budget.
        open: (signal) => this.#open("dedicated", { ...retry, attempts: 1 }, signal),
        isAlive: (client) => client.isAlive(),
        check: (client) => client.check(),
        // With somebody waiting for a connection, one that was given back is not kept.
        reset: (client, isAwaited) => !this.#gate.isWanted && client.reset(isAwaited),
        close: (client) => client.close(this.#closeMs),
      },
      {
        ...dedicated,
        name: `dedicated client of thread ${threadId}`,
        idleCheckMs: redis.idleCheckMs,
        retry,
        explain: () => this.#gate.explain(),
        logger,
        onTimeout: () => this.#row?.add("acquireTimeouts", 1),
        onClosed: (reason) => {
          this.#row?.add(CLOSED_FIELD[reason], 1);
          this.#report();
        },
      },
    );
    this.#gate.whenWanted(() => this.#dedicated.giveUpIdle());
    managed?.logins?.listen(() => this.#dedicated.forEachIdle((client) => client.renewLogin()));
  }

  getRedis(signal?: AbortSignal): Promise<RedisHandle> {
    this.#countAcquire?.();
    return this.#shared.get(signal);
  }

  async acquireDedicated(signal?: AbortSignal): Promise<DedicatedLease> {
    const lease = await this.#counted(this.#dedicated.acquire(signal));
    const unlisten = this.#taken(lease, signal);
    const release = async (): Promise<void> => {
      unlisten?.();
      await lease.release();
      this.#report();
    };
    return { redis: lease.client.redis, release, [Symbol.asyncDispose]: release };
  }

  async withDedicated<T>(fn: (redis: RedisHandle) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const lease = await this.#counted(this.#dedicated.acquire(signal));
    const unlisten = this.#taken(lease, signal);
    try {
      return await fn(lease.client.redis);
    } finally {
      unlisten?.();
      await lease.release();
      this.#report();
    }
  }

  /** Until the function it gives is called, an abort of the signal calls the client off. */
  #taken({ client }: Lease<AnyClient>, signal?: AbortSignal): (() => void) | undefined {
    this.#report();
    if (!signal) return undefined;
    const { redis } = client;
    let calledOff: typeof redis.calledOff;
    const unlisten = onAbort(signal, () => {
      redis.calledOff = calledOff = { reason: signal.reason };
      client.callOff(signal.reason);
    });
    return () => {
      unlisten();
      if (redis.calledOff === calledOff) redis.calledOff = undefined; // else it is the next holder's
    };
  }

  /** See `ConnectGate`. */
  giveWay(): void {
    this.#gate.giveWay();
  }

  /** Leases have half the time to come back; then their clients are closed under them. */
  async close(ms: number): Promise<void> {
    this.#closeMs = ms / 2;
    await Promise.all([this.#shared.close(ms), this.#dedicated.close(ms / 2)]);
    this.#report();
  }

  #counted<T>(acquiring: Promise<T>): Promise<T> {
    this.#countAcquire?.();
    this.#report(); // one more waits
    return acquiring;
  }

  #open(role: ClientRole, retry: RetryConfig, signal?: AbortSignal, mayBeAway?: boolean): Promise<AnyClient> {
    const { config, logger, managed } = this.#options;
    const options: OpenOptions = {
      gate: this.#gate,
      logins: managed?.logins,
      redis: config.redis,
      retry,
      role,
      logger,
      name: connectionName(config.appName, role),
      onState: (state, previous) => this.#count(state, previous),
      onReconnected: () => this.#row?.add("reconnects", 1),
    };
    return openClient(options, this.#closeMs, signal, mayBeAway);
  }

  #count(state: ConnectionState, previous: ConnectionState): void {
    const row = this.#row;
    if (previous === "connected") row?.add("open", -1);
    if (state === "connected") row?.add("open", 1);
  }

  #report(): void {
    const row = this.#row;
    if (!row) return;
    const { out, idle, waiting } = this.#dedicated.stats();
    row.set("dedicatedOut", out);
    row.set("dedicatedIdle", idle);
    row.set("dedicatedWaiting", waiting);
  }
}
