import { threadId } from "node:worker_threads";
import { type AnyClient, openClient, type OpenOptions } from "../clients/open-client.js";
import { SharedClient } from "../clients/shared-client.js";
import type { RedisHandle } from "../commands/ioredis.js";
import type { Config, RetryConfig } from "../config/options.js";
import type { ConnectionState } from "../connection/connection-state.js";
import type { Logins } from "../connection/credentials.js";
import { ShuttingDownError } from "../core/errors.js";
import { type Logger, noopLogger } from "../core/log.js";
import { type ClientRole, connectionName } from "../core/names.js";
import { monotonic } from "../core/clock.js";
import { onAbort } from "../core/waiting.js";
import { ConnectGate, ownGate } from "../gate/connect-gate.js";
import { CLOSED_FIELDS, type LedgerRow } from "../link/ledger.js";
import type { Locker, LockerThread } from "../locks/locker.js";
import type { NearCache } from "../near/near-cache.js";
import { ClientPool, type Lease } from "../pool/pool.js";
import { closeSync } from "./sync/sync-registry.js";

export interface DedicatedLease extends AsyncDisposable {
  readonly redis: RedisHandle;
  /** Gives the client back, repaired or closed; idempotent, never rejects. */
  release(): Promise<void>;
}

export interface ThreadClientsOptions {
  readonly config: Config;
  readonly logger: Logger;
  /** What the manager gave this thread; absent in a thread that no manager started. */
  readonly managed?: {
    readonly row: LedgerRow;
    readonly gate: SharedArrayBuffer;
    readonly logins: Logins | undefined;
    readonly locks: LockerThread;
  };
}

/** All Redis clients of one thread: the cached client that its tasks share, and the dedicated clients. */
export class ThreadClients {
  readonly #options: ThreadClientsOptions;
  readonly #row: LedgerRow | undefined;
  readonly #countAcquire: (() => void) | undefined;
  readonly #gate: ConnectGate;
  readonly #shared: SharedClient;
  readonly #dedicated: ClientPool<AnyClient>;
  readonly #stopGivingUp: () => void;
  readonly #stopRenewing: (() => void) | undefined;
  #closeMs: number;
  #isClosed = false;
  #locker: Promise<Locker> | undefined;
  #madeLocker: Locker | undefined;

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
        // One attempt, because the pool paces and counts the attempts within its own budget.
        open: (signal) => this.#open("dedicated", { ...retry, attempts: 1 }, signal),
        isAlive: (client) => client.isAlive(),
        check: (client) => client.check(),
        // While a waiter needs a connection, a client that comes back is closed.
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
          this.#row?.add(CLOSED_FIELDS[reason], 1);
          this.#report();
        },
      },
    );
    this.#stopGivingUp = this.#gate.whenWanted(() => this.#dedicated.giveUpIdle());
    this.#stopRenewing = managed?.logins?.listen(() => this.#dedicated.forEachIdle((client) => client.renewLogin()));
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

  /** An abort of the signal calls the client off, until the returned function is called. */
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
      if (redis.calledOff === calledOff) redis.calledOff = undefined; // another one belongs to the next holder
    };
  }

  /** This thread's locks. Their code is loaded by the first one. */
  async locker(): Promise<Locker> {
    if (this.#isClosed) throw clientsClosed();
    return (this.#locker ??= this.#makeLocker());
  }

  /** As `locker`, without a promise; undefined before the first lock. */
  get madeLocker(): Locker | undefined {
    return this.#madeLocker;
  }

  /** See `ConnectGate`. */
  giveWay(): void {
    this.#gate.giveWay();
  }

  /** Leases have half the time to come back. Then their clients are closed although they are held. Locks are released first. */
  async close(wholeMs: number): Promise<void> {
    const deadline = monotonic() + wholeMs;
    this.#isClosed = true;
    await (await this.#locker?.catch(() => undefined))?.close(wholeMs / 2); // it may have come too late to be made
    const ms = Math.max(deadline - monotonic(), 1);
    this.#closeMs = ms / 2;
    await Promise.all([this.#shared.close(ms), this.#dedicated.close(ms / 2)]);
    this.#stopGivingUp();
    this.#stopRenewing?.();
    this.#report();
  }

  async #makeLocker(): Promise<Locker> {
    const { openLocker } = await import("../locks/open-locker.js");
    if (this.#isClosed) throw clientsClosed();
    const { config, logger, managed } = this.#options;
    const getRedis = (signal?: AbortSignal): Promise<RedisHandle> => this.#shared.get(signal);
    return (this.#madeLocker = openLocker({ config, logger, getRedis, thread: managed?.locks }));
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
      onIdentified: role === "thread" && registry.near ? (server) => registry.near?.identified(server) : undefined,
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

function clientsClosed(): ShuttingDownError {
  return new ShuttingDownError("this thread has closed its clients", { outcome: "not-sent" });
}

interface Registry {
  clients: ThreadClients | undefined;
  opening: Promise<ThreadClients> | undefined;
  near?: NearCache | undefined;
  /** In a manager's thread: makes clients of the manager's configuration. */
  make?: (() => ThreadClients) | undefined;
}

/** On globalThis, so that two copies of this package in one thread share its clients and do not open them twice. */
const KEY = Symbol.for("redthread.thread-clients");
// Looked up once, because a property of globalThis is slow to read and every getRedis() reads it.
const registry = ((globalThis as { [KEY]?: Registry })[KEY] ??= { clients: undefined, opening: undefined });

/** The clients of this thread; undefined before they are first wanted and after `closeCurrent()`. */
export function madeClients(): ThreadClients | undefined {
  return registry.clients;
}

/** The clients of this thread: its manager's, else new ones, configured by the environment. */
export async function currentClients(): Promise<ThreadClients> {
  if (registry.make) return (registry.clients ??= registry.make());
  return registry.clients ?? (registry.opening ??= fromEnvironment().finally(() => (registry.opening = undefined)));
}

/** From now on `make` makes the clients of this thread: at once, and for the first acquire after each `closeCurrent()`. */
export function adopt(make: () => ThreadClients): void {
  registry.make = make;
  registry.clients = make();
}

/** The near cache of this thread, if it has one. */
export function madeNear(): NearCache | undefined {
  return registry.near;
}

export function adoptNear(near: NearCache): void {
  registry.near = near;
}

/** The next clients of this thread are configured by the environment again. */
export function disown(): void {
  registry.make = registry.near = undefined;
}

/** Closes this thread's clients, if there are any; the next acquire starts afresh. Connects nothing. */
export async function closeCurrent(ms: number): Promise<void> {
  const closed = closeSync(ms);
  const clients = registry.clients ?? (await registry.opening?.catch(() => undefined)); // a failed attempt opened nothing
  await clients?.close(ms);
  if (registry.clients === clients) registry.clients = undefined;
  await closed;
}

async function fromEnvironment(): Promise<ThreadClients> {
  // Loaded here only: a thread with a manager never needs dotenv.
  const { loadConfig } = await import("../config/env.js");
  return (registry.clients = new ThreadClients({ config: loadConfig(), logger: noopLogger }));
}
