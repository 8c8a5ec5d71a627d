// The room of the pool of clients for one holder at a time: `ClientPool` is its face. It knows nothing of Redis and
// imports only core. Read on from here:
// - acquire-queue.ts: the callers that wait, and their time limit;
// - pool-entries.ts: the life of an entry, from its dial to its close, on top of generic-pool;
// - pool-options.ts and guarded-factory.ts: what the pool is given, and what limits the faults of the given functions;
// - lease.ts: what a caller gets, and the warning about a lease that does not come back.

import { acquireChannel, leaseChannel } from "../core/channels.js";
import { monotonic } from "../core/clock.js";
import { type AcquirePhase, AcquireTimeoutError, ShuttingDownError } from "../core/errors.js";
import { noopLogger } from "../core/log.js";
import { AcquireQueue } from "./acquire-queue.js";
import { GuardedFactory } from "./guarded-factory.js";
import { type ClientLease, LeakWatch, type Lease, traceAcquire, traceLease } from "./lease.js";
import { PoolEntries } from "./pool-entries.js";
import type { PoolFactory, PoolOptions, ResolvedOptions } from "./pool-options.js";

export type { Lease } from "./lease.js";
export type { CloseReason, PoolFactory, PoolOptions } from "./pool-options.js";

/** Clients for one holder at a time. */
export class ClientPool<T> {
  readonly #options: ResolvedOptions;
  readonly #leaks: LeakWatch | undefined;
  readonly #factory: GuardedFactory<T>;
  readonly #queue: AcquireQueue<ClientLease<T>>;
  readonly #entries: PoolEntries<T>;
  #closing: Promise<void> | undefined;

  constructor(factory: PoolFactory<T>, options: PoolOptions) {
    this.#options = {
      judgeMs: Math.min(5_000, options.acquireTimeoutMs / 2),
      now: monotonic,
      random: Math.random,
      logger: noopLogger,
      ...options,
    };
    const { acquireTimeoutMs: ms, now, leakWarnMs } = this.#options;
    if (leakWarnMs !== undefined) this.#leaks = new LeakWatch(leakWarnMs, this.#options, () => this.stats());
    this.#queue = new AcquireQueue({ ms, now, onExpiry: (ahead, waitedMs) => this.#expired(ahead, waitedMs) });
    this.#factory = new GuardedFactory(factory, this.#options);
    this.#entries = new PoolEntries(this.#factory, this.#queue, this.#options);
  }

  /** Rejects with ACQUIRE_TIMEOUT, SHUTTING_DOWN, the signal's reason, or a failure to connect that no retry mends. */
  async acquire(signal?: AbortSignal): Promise<Lease<T>> {
    signal?.throwIfAborted();
    if (this.#entries.isClosing) throw this.#shuttingDown();
    const acquired = this.#leaks && new Error("acquired here"); // its stack is gone after the first await
    const serving = this.#entries.lendRecent() ?? this.#wait(signal);
    const lease = await (acquireChannel.hasSubscribers ? traceAcquire(serving) : serving);
    lease.onReturn = this.#leaks?.start(acquired);
    if (leaseChannel.hasSubscribers) traceLease(lease);
    return lease;
  }

  stats(): { out: number; idle: number; waiting: number; max: number } {
    return {
      out: this.#entries.count("out"),
      idle: this.#entries.count("idle"),
      waiting: this.#queue.size,
      max: this.#options.max,
    };
  }

  /** Closes one idle client, if there is one, because its connection is needed elsewhere. */
  giveUpIdle(): void {
    this.#entries.closeOneIdle();
  }

  /** Visits the clients that nobody holds, except those that are being checked. */
  forEachIdle(visit: (client: T) => void): void {
    this.#entries.forEachIdle(visit);
  }

  /**
   * Rejects waiters and new callers, lets leases come back for `ms`, then closes every client, leased or not.
   * Idempotent; ends by `ms` + `judgeMs`, also when a client's `close` hangs.
   */
  close(ms: number): Promise<void> {
    return (this.#closing ??= this.#close(ms));
  }

  #wait(signal: AbortSignal | undefined): Promise<ClientLease<T>> {
    this.#entries.load(); // before a caller waits: this acquire rejects where generic-pool cannot be loaded
    const waiting = this.#queue.wait(signal);
    this.#entries.supply();
    return waiting;
  }

  async #close(ms: number): Promise<void> {
    await this.#entries.close(ms, this.#shuttingDown());
    this.#leaks?.stop();
    await this.#entries.closed();
  }

  #expired(ahead: number, elapsedMs: number): AcquireTimeoutError {
    const { name, acquireTimeoutMs } = this.#options;
    this.#options.onTimeout?.();
    const phase = this.#phaseOf(ahead);
    const stats = this.stats();
    const { out, idle, waiting, max } = stats;
    const numbers = `${out}/${max} out, ${idle} idle, ${waiting} waiting`;
    return new AcquireTimeoutError(`no ${name} within ${acquireTimeoutMs} ms (phase: ${phase}; ${numbers})`, {
      phase,
      elapsedMs,
      cause: this.#options.explain?.() ?? this.#factory.lastError,
      ...stats,
    });
  }

  /** Suppliers are not bound to waiters: the first waiter gets the entry that is nearest to be ready. */
  #phaseOf(ahead: number): AcquirePhase {
    const checking = this.#entries.count("checking");
    if (ahead < checking) return "validate";
    return ahead < checking + this.#entries.count("connecting") ? "connect" : "wait";
  }

  #shuttingDown(): ShuttingDownError {
    return new ShuttingDownError(`no ${this.#options.name} is available: its pool is closed`);
  }
}
