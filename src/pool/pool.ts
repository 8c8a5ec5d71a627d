import { acquireChannel, leaseChannel } from "../core/channels.js";
import { AcquireTimeoutError, ShuttingDownError } from "../core/errors.js";
import { type Logger, noopLogger } from "../core/log.js";
import { isFinal } from "../core/failures.js";
import { monotonic } from "../core/clock.js";
import { AcquireQueue } from "./acquire-queue.js";
import { makeEntryPool, type EntryPool } from "./generic-pool.js";
import { GuardedFactory, type PoolFactory } from "./guarded-factory.js";
import { LeakWatch } from "./leak-watch.js";
import { ClientLease, type Lease, traceAcquire, traceLease } from "./lease.js";
import { type CloseReason, type PoolEntry, PoolEntries } from "./pool-entries.js";
import { RecentRelease } from "./recent-release.js";

export type { PoolFactory } from "./guarded-factory.js";
export type { Lease } from "./lease.js";
export type { CloseReason } from "./pool-entries.js";

export interface PoolOptions {
  /** What the clients are called in errors, e.g. "dedicated client". */
  name: string;
  max: number;
  /** One budget for waiting, connecting and validating. */
  acquireTimeoutMs: number;
  idleTimeoutMs: number;
  /** Each client draws 75–100 % of it, so that a pool filled at once is not emptied at once. */
  maxLifetimeMs: number;
  /** Clients idle for longer are checked before they are handed out. */
  idleCheckMs: number;
  /** A lease held for longer is warned of, once, with the stack of its acquire. Default: none. */
  leakWarnMs?: number;
  logger?: Logger;
  retry: { baseDelayMs: number; maxDelayMs: number };
  /** Limit of one `check` or `reset`. Default: 5 s, never more than half of `acquireTimeoutMs`. */
  judgeMs?: number;
  now?: () => number;
  random?: () => number;
  /** Why an attempt that has not failed yet takes so long; the cause of a timeout, if there is one. */
  explain?(): unknown;
  /** Failures of `open` that no retry mends. Default: wrong password, wrong configuration. */
  isFatal?(error: unknown): boolean;
  onClosed?(reason: CloseReason): void;
  /** Somebody waited for all of `acquireTimeoutMs` in vain. */
  onTimeout?(): void;
}

export interface PoolStats {
  out: number;
  idle: number;
  waiting: number;
  max: number;
}

/** `wait`: for a client, or room for one. `connect`: a dial, or the pause before it. `validate`: a check after idleness. */
export type AcquirePhase = "wait" | "connect" | "validate";

/**
 * Clients for one holder at a time. generic-pool keeps the set of slots, its max, their order and eviction; who waits,
 * for how long, and what goes wrong meanwhile is ours, because generic-pool tells nobody.
 */
export class ClientPool<T> {
  readonly #options: Required<Omit<PoolOptions, "leakWarnMs">>;
  readonly #leaks: LeakWatch | undefined;
  readonly #factory: GuardedFactory<T>;
  /** Loaded and made by the first acquire: a thread that leases nothing does without. */
  #made: EntryPool<PoolEntry<T>> | undefined;
  readonly #entries = new PoolEntries<T>();
  readonly #acquireQueue: AcquireQueue<ClientLease<T>>;
  #suppliers = 0;
  /** Idle, but for generic-pool still out: who asks in the turn it came back in has it without waiting his turn there. */
  readonly #recentRelease = new RecentRelease<PoolEntry<T>>((entry) => this.#shelve(entry));
  #isClosing = false;
  #closing: Promise<void> | undefined;

  constructor(factory: PoolFactory<T>, options: PoolOptions) {
    const judgeMs = Math.min(5_000, options.acquireTimeoutMs / 2);
    this.#options = {
      judgeMs,
      now: monotonic,
      random: Math.random,
      isFatal: isFinal,
      explain: () => undefined,
      logger: noopLogger,
      onClosed: () => {},
      onTimeout: () => {},
      ...options,
    };
    this.#leaks = this.#watchLeaks(options.leakWarnMs);
    this.#acquireQueue = new AcquireQueue({
      ms: options.acquireTimeoutMs,
      now: this.#options.now,
      onExpiry: (ahead, waitedMs) => this.#expired(ahead, waitedMs),
    });
    this.#factory = new GuardedFactory(factory, { ...this.#options, openMs: options.acquireTimeoutMs });
  }

  /** Rejects with ACQUIRE_TIMEOUT, SHUTTING_DOWN, the signal's reason, or a failure to connect that no retry mends. */
  async acquire(signal?: AbortSignal): Promise<Lease<T>> {
    signal?.throwIfAborted();
    if (this.#isClosing) throw this.#shuttingDown();
    const asked = this.#leaks && new Error("asked for here"); // its stack is gone after the first await
    const serving = this.#takeRecent() ?? this.#wait(signal);
    const lease = await (acquireChannel.hasSubscribers ? traceAcquire(serving) : serving);
    lease.onReturn = this.#leaks?.start(asked);
    if (leaseChannel.hasSubscribers) traceLease(lease);
    return lease;
  }

  stats(): PoolStats {
    const { max } = this.#options;
    return {
      out: this.#entries.count("out"),
      idle: this.#entries.count("idle"),
      waiting: this.#acquireQueue.size,
      max,
    };
  }

  /** Closes one idle client, if there is one: somebody else needs the connection. */
  giveUpIdle(): void {
    for (const entry of this.#entries) {
      if (entry.stage !== "idle") continue;
      // One that is borrowed, and not at hand, is on its way to a waiter.
      if (this.#recentRelease.holds(entry) || !this.#pool.isBorrowedResource(entry))
        return this.#discard(entry, "idle");
    }
  }

  /** For clients that nobody holds; one that is being checked or lent is left out. */
  forEachIdle(visit: (client: T) => void): void {
    for (const { stage, client } of this.#entries) if (stage === "idle" && client !== undefined) visit(client);
  }

  /**
   * Turns away who asks and who waits, lets leases come back for `ms`, then closes every client, leased or not.
   * Idempotent; ends by `ms` + `judgeMs`, also when a client's `close` hangs.
   */
  close(ms: number): Promise<void> {
    return (this.#closing ??= this.#shut(ms));
  }

  get #pool(): EntryPool<PoolEntry<T>> {
    return this.#made!;
  }

  #wait(signal: AbortSignal | undefined): Promise<ClientLease<T>> {
    this.#made ??= this.#makePool();
    const waiting = this.#acquireQueue.wait(signal);
    this.#supply();
    return waiting;
  }

  /** One supplier per waiter, but not his own: who leaves bequeaths supplier, and dial under way, to the next. */
  #supply(): void {
    if (this.#suppliers >= this.#acquireQueue.size) return;
    this.#suppliers++;
    void this.#bring(); // rejects only by a bug
  }

  async #bring(): Promise<void> {
    do {
      const entry = await this.#pool.acquire();
      if (await this.#isGood(entry)) {
        this.#suppliers--;
        if (!this.#handOut(entry)) this.#shelve(entry);
        return;
      }
      this.#discard(entry, "dead");
    } while (this.#suppliers <= this.#acquireQueue.size);
    this.#suppliers--;
  }

  /** generic-pool's `create`. Never rejects, or it would be called again at once: a failed dial's slot is empty, and dropped by its supplier. */
  async #open(): Promise<PoolEntry<T>> {
    const entry = await this.#entries.add(this.#options.max);
    try {
      // With nobody waiting any more there is nothing to dial for, and a dead server would be dialled for ever.
      if (this.#acquireQueue.size > 0) await this.#factory.pause(entry.attempt.signal);
      if (this.#acquireQueue.size > 0) entry.client = await this.#factory.open(entry.attempt);
    } catch (error) {
      this.#fail(error);
      entry.closeReason = this.#isClosing ? "shutdown" : "failed";
    }
    const { now, random, maxLifetimeMs } = this.#options;
    entry.idleSince = now();
    entry.expiresAt = now() + maxLifetimeMs * (0.75 + random() / 4);
    entry.stage = "idle";
    if (this.#isClosing) entry.closeReason = "shutdown";
    if (entry.client === undefined || this.#isClosing) void this.#retire(entry);
    return entry;
  }

  #fail(error: unknown): void {
    this.#factory.failed(error);
    if (this.#options.isFatal(error)) this.#acquireQueue.dismissAll(error);
  }

  async #isGood(entry: PoolEntry<T>): Promise<boolean> {
    const { client, isFresh } = entry;
    // Given up meanwhile: until its QUIT is answered it looks alive.
    if (client === undefined || entry.closed) return false;
    entry.stage = "checking";
    entry.isFresh = false;
    const hasRested = this.#hasRested(entry);
    const passed = this.#factory.isAlive(client) && (!hasRested || (await this.#factory.check(client)));
    if (passed && (isFresh || hasRested)) this.#factory.passed();
    if (passed) entry.idleSince = this.#options.now(); // also if nobody wants it any more
    // A server that accepts and hangs up is no better than one that refuses: uncounted, it would be dialled without a pause.
    if (!passed && isFresh) {
      const cause = this.#factory.lastError;
      this.#fail(new Error(`a ${this.#options.name} was dead on arrival`, { cause }));
      entry.closeReason = "failed";
    }
    return passed && this.#factory.isAlive(client); // not lost while it was checked
  }

  #hasRested({ idleSince }: PoolEntry<T>): boolean {
    return this.#options.now() - idleSince > this.#options.idleCheckMs;
  }

  /** To whoever waits longest; false if nobody does. */
  #handOut(entry: PoolEntry<T>): boolean {
    return this.#acquireQueue.size > 0 && this.#acquireQueue.serve(this.#lend(entry));
  }

  #lend(entry: PoolEntry<T>): ClientLease<T> {
    entry.stage = "out";
    return new ClientLease(entry.client!, (isWanted) => this.#takeBack(entry, isWanted));
  }

  #takeRecent(): ClientLease<T> | undefined {
    const entry = this.#recentRelease.take();
    if (entry === undefined) return undefined;
    if (!this.#hasRested(entry) && this.#factory.isAlive(entry.client!)) return this.#lend(entry);
    this.#shelve(entry); // generic-pool gives it to a supplier, who checks it or finds it dead
    return undefined;
  }

  /** Most come back clean, and the next waiter has them in this very turn. */
  #takeBack(entry: PoolEntry<T>, isWanted: boolean): Promise<void> | void {
    if (!isWanted) return this.#discard(entry, "dirty");
    const flaw = this.#flawOf(entry);
    if (flaw) return this.#discard(entry, flaw);
    const isClean = this.#factory.reset(entry.client!, this.#acquireQueue.size > 0);
    if (typeof isClean === "boolean") return this.#judge(entry, isClean);
    return isClean.then((found) => this.#judge(entry, found));
  }

  #judge(entry: PoolEntry<T>, isClean: boolean): void {
    const flaw = this.#flawOf(entry) ?? (isClean ? undefined : "dirty");
    if (flaw) this.#discard(entry, flaw);
    else if (!this.#handOut(entry)) this.#keepRecent(entry);
  }

  #flawOf(entry: PoolEntry<T>): CloseReason | undefined {
    return this.#isClosing ? "shutdown" : this.#ageOrDeath(entry);
  }

  #ageOrDeath({ client, expiresAt }: PoolEntry<T>): CloseReason | undefined {
    if (client === undefined || !this.#factory.isAlive(client)) return "dead";
    return this.#options.now() >= expiresAt ? "lifetime" : undefined;
  }

  #keepRecent(entry: PoolEntry<T>): void {
    this.#recentRelease.keep(entry);
    entry.stage = "idle";
    entry.idleSince = this.#options.now();
  }

  #shelve(entry: PoolEntry<T>): void {
    if (this.#isClosing) return this.#discard(entry, "shutdown"); // begun since the client was found good
    entry.stage = "idle";
    void this.#pool.release(entry); // rejects only for a slot that is not out
  }

  #discard(entry: PoolEntry<T>, reason: CloseReason): void {
    if (this.#recentRelease.holds(entry)) this.#recentRelease.take();
    entry.closeReason ??= reason;
    if (this.#pool.isBorrowedResource(entry)) void this.#pool.destroy(entry);
    else void this.#retire(entry);
  }

  /** generic-pool's `destroy`; never rejects. The slot counts until its client is closed. */
  #retire(entry: PoolEntry<T>): Promise<void> {
    entry.stage = "closing";
    return (entry.closed ??= this.#closeClient(entry));
  }

  async #closeClient(entry: PoolEntry<T>): Promise<void> {
    if (entry.client !== undefined) await this.#factory.close(entry.client);
    this.#entries.delete(entry);
    if (entry.closeReason) this.#options.onClosed(entry.closeReason); // else nothing was dialled
  }

  async #shut(ms: number): Promise<void> {
    this.#isClosing = true;
    const reason = this.#shuttingDown();
    this.#acquireQueue.dismissAll(reason);
    for (const entry of this.#entries) {
      if (entry.stage === "connecting") entry.attempt.abort(reason);
      else if (entry.stage !== "out") this.#discard(entry, "shutdown");
    }
    await this.#entries.emptied(ms);
    for (const entry of this.#entries) this.#discard(entry, "shutdown");
    this.#leaks?.stop();
    await this.#entries.emptied(this.#options.judgeMs);
    // Stops the evictor, and ends because no lease is out any more. `clear` is for pools that are never used again.
    void this.#made?.drain().then(() => this.#pool.clear());
  }

  #expired(ahead: number, elapsedMs: number): AcquireTimeoutError {
    this.#options.onTimeout();
    const { name, acquireTimeoutMs } = this.#options;
    const details = {
      phase: this.#phaseOf(ahead),
      elapsedMs,
      cause: this.#options.explain() ?? this.#factory.lastError,
      ...this.stats(),
    };
    const { phase, out, idle, waiting, max } = details;
    const numbers = `${out}/${max} out, ${idle} idle, ${waiting} waiting`;
    return new AcquireTimeoutError(`no ${name} within ${acquireTimeoutMs} ms (phase: ${phase}; ${numbers})`, details);
  }

  /** Suppliers are not bound to waiters: who has waited longest gets what is furthest on. */
  #phaseOf(ahead: number): AcquirePhase {
    const checking = this.#entries.count("checking");
    if (ahead < checking) return "validate";
    return ahead < checking + this.#entries.count("connecting") ? "connect" : "wait";
  }

  #shuttingDown(): ShuttingDownError {
    return new ShuttingDownError(`no ${this.#options.name} any more: its pool is closed`);
  }

  #makePool(): EntryPool<PoolEntry<T>> {
    const { max, idleTimeoutMs, maxLifetimeMs } = this.#options;
    return makeEntryPool({
      max,
      shortestMs: Math.min(idleTimeoutMs, maxLifetimeMs),
      create: () => this.#open(),
      destroy: (entry) => this.#retire(entry),
      evict: (entry) => {
        const reason = this.#reasonToEvict(entry);
        if (reason) entry.closeReason ??= reason;
        return reason !== undefined;
      },
    });
  }

  #reasonToEvict(entry: PoolEntry<T>): CloseReason | undefined {
    const isIdle = this.#options.now() - entry.idleSince > this.#options.idleTimeoutMs;
    return this.#ageOrDeath(entry) ?? (isIdle ? "idle" : undefined);
  }

  #watchLeaks(warnMs: number | undefined): LeakWatch | undefined {
    const { logger, now, name } = this.#options;
    const describe = (): Record<string, unknown> => ({ name, ...this.stats() });
    return warnMs === undefined ? undefined : new LeakWatch({ warnMs, logger, now, describe });
  }
}
