import { acquireChannel, leaseChannel } from "../core/channels.js";
import { AcquireTimeoutError, ShuttingDownError } from "../core/errors.js";
import { type Logger, noopLogger } from "../core/log.js";
import { isDenied } from "../core/permissions.js";
import { monotonic } from "../core/time.js";
import { Waiters } from "./acquire-queue.js";
import { makeSlotPool, type SlotPool } from "./generic-pool.js";
import { FencedFactory, type PoolFactory } from "./guarded-factory.js";
import { LeakWatch } from "./leak-watch.js";
import { ClientLease, type Lease, traceAcquire, traceLease } from "./lease.js";
import { type CloseReason, type Slot, Slots } from "./pool-entries.js";
import { AtHand } from "./recent-release.js";

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
  readonly #factory: FencedFactory<T>;
  /** Loaded and made by the first acquire: a thread that leases nothing does without. */
  #made: SlotPool<Slot<T>> | undefined;
  readonly #slots = new Slots<T>();
  readonly #waiters: Waiters<ClientLease<T>>;
  #suppliers = 0;
  /** Idle, but for generic-pool still out: who asks in the turn it came back in has it without waiting his turn there. */
  readonly #atHand = new AtHand<Slot<T>>((slot) => this.#shelve(slot));
  #isClosing = false;
  #closing: Promise<void> | undefined;

  constructor(factory: PoolFactory<T>, options: PoolOptions) {
    const judgeMs = Math.min(5_000, options.acquireTimeoutMs / 2);
    this.#options = {
      judgeMs,
      now: monotonic,
      random: Math.random,
      isFatal: isPermanent,
      explain: () => undefined,
      logger: noopLogger,
      onClosed: () => {},
      onTimeout: () => {},
      ...options,
    };
    this.#leaks = this.#watchLeaks(options.leakWarnMs);
    this.#waiters = new Waiters({
      ms: options.acquireTimeoutMs,
      now: this.#options.now,
      onExpiry: (ahead, waitedMs) => this.#expired(ahead, waitedMs),
    });
    this.#factory = new FencedFactory(factory, { ...this.#options, openMs: options.acquireTimeoutMs });
  }

  /** Rejects with ACQUIRE_TIMEOUT, SHUTTING_DOWN, the signal's reason, or a failure to connect that no retry mends. */
  async acquire(signal?: AbortSignal): Promise<Lease<T>> {
    signal?.throwIfAborted();
    if (this.#isClosing) throw this.#shuttingDown();
    const asked = this.#leaks && new Error("asked for here"); // its stack is gone after the first await
    const serving = this.#takeAtHand() ?? this.#wait(signal);
    const lease = await (acquireChannel.hasSubscribers ? traceAcquire(serving) : serving);
    lease.onReturn = this.#leaks?.start(asked);
    if (leaseChannel.hasSubscribers) traceLease(lease);
    return lease;
  }

  stats(): PoolStats {
    const { max } = this.#options;
    return { out: this.#slots.count("out"), idle: this.#slots.count("idle"), waiting: this.#waiters.size, max };
  }

  /** Closes one idle client, if there is one: somebody else needs the connection. */
  giveUpIdle(): void {
    for (const slot of this.#slots) {
      if (slot.stage !== "idle") continue;
      // One that is borrowed, and not at hand, is on its way to a waiter.
      if (this.#atHand.holds(slot) || !this.#pool.isBorrowedResource(slot)) return this.#discard(slot, "idle");
    }
  }

  /** For clients that nobody holds; one that is being checked or lent is left out. */
  forEachIdle(visit: (client: T) => void): void {
    for (const { stage, client } of this.#slots) if (stage === "idle" && client !== undefined) visit(client);
  }

  /**
   * Turns away who asks and who waits, lets leases come back for `ms`, then closes every client, leased or not.
   * Idempotent; ends by `ms` + `judgeMs`, also when a client's `close` hangs.
   */
  close(ms: number): Promise<void> {
    return (this.#closing ??= this.#shut(ms));
  }

  get #pool(): SlotPool<Slot<T>> {
    return this.#made!;
  }

  #wait(signal: AbortSignal | undefined): Promise<ClientLease<T>> {
    this.#made ??= this.#makePool();
    const waiting = this.#waiters.wait(signal);
    this.#supply();
    return waiting;
  }

  /** One supplier per waiter, but not his own: who leaves bequeaths supplier, and dial under way, to the next. */
  #supply(): void {
    if (this.#suppliers >= this.#waiters.size) return;
    this.#suppliers++;
    void this.#bring(); // rejects only by a bug
  }

  async #bring(): Promise<void> {
    do {
      const slot = await this.#pool.acquire();
      if (await this.#isGood(slot)) {
        this.#suppliers--;
        if (!this.#handOut(slot)) this.#shelve(slot);
        return;
      }
      this.#discard(slot, "dead");
    } while (this.#suppliers <= this.#waiters.size);
    this.#suppliers--;
  }

  /** generic-pool's `create`. Never rejects, or it would be called again at once: a failed dial's slot is empty, and dropped by its supplier. */
  async #open(): Promise<Slot<T>> {
    const slot = await this.#slots.add(this.#options.max);
    try {
      // With nobody waiting any more there is nothing to dial for, and a dead server would be dialled for ever.
      if (this.#waiters.size > 0) await this.#factory.pause(slot.attempt.signal);
      if (this.#waiters.size > 0) slot.client = await this.#factory.open(slot.attempt);
    } catch (error) {
      this.#fail(error);
      slot.closeReason = this.#isClosing ? "shutdown" : "failed";
    }
    const { now, random, maxLifetimeMs } = this.#options;
    slot.idleSince = now();
    slot.expiresAt = now() + maxLifetimeMs * (0.75 + random() / 4);
    slot.stage = "idle";
    if (this.#isClosing) slot.closeReason = "shutdown";
    if (slot.client === undefined || this.#isClosing) void this.#retire(slot);
    return slot;
  }

  #fail(error: unknown): void {
    this.#factory.failed(error);
    if (this.#options.isFatal(error)) this.#waiters.dismissAll(error);
  }

  async #isGood(slot: Slot<T>): Promise<boolean> {
    const { client, isFresh } = slot;
    // Given up meanwhile: until its QUIT is answered it looks alive.
    if (client === undefined || slot.closed) return false;
    slot.stage = "checking";
    slot.isFresh = false;
    const hasRested = this.#hasRested(slot);
    const passed = this.#factory.isAlive(client) && (!hasRested || (await this.#factory.check(client)));
    if (passed && (isFresh || hasRested)) this.#factory.passed();
    if (passed) slot.idleSince = this.#options.now(); // also if nobody wants it any more
    // A server that accepts and hangs up is no better than one that refuses: uncounted, it would be dialled without a pause.
    if (!passed && isFresh) {
      const cause = this.#factory.lastError;
      this.#fail(new Error(`a ${this.#options.name} was dead on arrival`, { cause }));
      slot.closeReason = "failed";
    }
    return passed && this.#factory.isAlive(client); // not lost while it was checked
  }

  #hasRested({ idleSince }: Slot<T>): boolean {
    return this.#options.now() - idleSince > this.#options.idleCheckMs;
  }

  /** To whoever waits longest; false if nobody does. */
  #handOut(slot: Slot<T>): boolean {
    return this.#waiters.size > 0 && this.#waiters.serve(this.#lend(slot));
  }

  #lend(slot: Slot<T>): ClientLease<T> {
    slot.stage = "out";
    return new ClientLease(slot.client!, (isWanted) => this.#takeBack(slot, isWanted));
  }

  #takeAtHand(): ClientLease<T> | undefined {
    const slot = this.#atHand.take();
    if (slot === undefined) return undefined;
    if (!this.#hasRested(slot) && this.#factory.isAlive(slot.client!)) return this.#lend(slot);
    this.#shelve(slot); // generic-pool gives it to a supplier, who checks it or finds it dead
    return undefined;
  }

  /** Most come back clean, and the next waiter has them in this very turn. */
  #takeBack(slot: Slot<T>, isWanted: boolean): Promise<void> | void {
    if (!isWanted) return this.#discard(slot, "dirty");
    const flaw = this.#flawOf(slot);
    if (flaw) return this.#discard(slot, flaw);
    const isClean = this.#factory.reset(slot.client!, this.#waiters.size > 0);
    if (typeof isClean === "boolean") return this.#judge(slot, isClean);
    return isClean.then((found) => this.#judge(slot, found));
  }

  #judge(slot: Slot<T>, isClean: boolean): void {
    const flaw = this.#flawOf(slot) ?? (isClean ? undefined : "dirty");
    if (flaw) this.#discard(slot, flaw);
    else if (!this.#handOut(slot)) this.#keepAtHand(slot);
  }

  #flawOf(slot: Slot<T>): CloseReason | undefined {
    return this.#isClosing ? "shutdown" : this.#ageOrDeath(slot);
  }

  #ageOrDeath({ client, expiresAt }: Slot<T>): CloseReason | undefined {
    if (client === undefined || !this.#factory.isAlive(client)) return "dead";
    return this.#options.now() >= expiresAt ? "lifetime" : undefined;
  }

  #keepAtHand(slot: Slot<T>): void {
    this.#atHand.keep(slot);
    slot.stage = "idle";
    slot.idleSince = this.#options.now();
  }

  #shelve(slot: Slot<T>): void {
    if (this.#isClosing) return this.#discard(slot, "shutdown"); // begun since the client was found good
    slot.stage = "idle";
    void this.#pool.release(slot); // rejects only for a slot that is not out
  }

  #discard(slot: Slot<T>, reason: CloseReason): void {
    if (this.#atHand.holds(slot)) this.#atHand.take();
    slot.closeReason ??= reason;
    if (this.#pool.isBorrowedResource(slot)) void this.#pool.destroy(slot);
    else void this.#retire(slot);
  }

  /** generic-pool's `destroy`; never rejects. The slot counts until its client is closed. */
  #retire(slot: Slot<T>): Promise<void> {
    slot.stage = "closing";
    return (slot.closed ??= this.#closeClient(slot));
  }

  async #closeClient(slot: Slot<T>): Promise<void> {
    if (slot.client !== undefined) await this.#factory.close(slot.client);
    this.#slots.delete(slot);
    if (slot.closeReason) this.#options.onClosed(slot.closeReason); // else nothing was dialled
  }

  async #shut(ms: number): Promise<void> {
    this.#isClosing = true;
    const reason = this.#shuttingDown();
    this.#waiters.dismissAll(reason);
    for (const slot of this.#slots) {
      if (slot.stage === "connecting") slot.attempt.abort(reason);
      else if (slot.stage !== "out") this.#discard(slot, "shutdown");
    }
    await this.#slots.emptied(ms);
    for (const slot of this.#slots) this.#discard(slot, "shutdown");
    this.#leaks?.stop();
    await this.#slots.emptied(this.#options.judgeMs);
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
    const checking = this.#slots.count("checking");
    if (ahead < checking) return "validate";
    return ahead < checking + this.#slots.count("connecting") ? "connect" : "wait";
  }

  #shuttingDown(): ShuttingDownError {
    return new ShuttingDownError(`no ${this.#options.name} any more: its pool is closed`);
  }

  #makePool(): SlotPool<Slot<T>> {
    const { max, idleTimeoutMs, maxLifetimeMs } = this.#options;
    return makeSlotPool({
      max,
      shortestMs: Math.min(idleTimeoutMs, maxLifetimeMs),
      create: () => this.#open(),
      destroy: (slot) => this.#retire(slot),
      evict: (slot) => {
        const reason = this.#reasonToEvict(slot);
        if (reason) slot.closeReason ??= reason;
        return reason !== undefined;
      },
    });
  }

  #reasonToEvict(slot: Slot<T>): CloseReason | undefined {
    const isIdle = this.#options.now() - slot.idleSince > this.#options.idleTimeoutMs;
    return this.#ageOrDeath(slot) ?? (isIdle ? "idle" : undefined);
  }

  #watchLeaks(warnMs: number | undefined): LeakWatch | undefined {
    const { logger, now, name } = this.#options;
    const describe = (): Record<string, unknown> => ({ name, ...this.stats() });
    return warnMs === undefined ? undefined : new LeakWatch({ warnMs, logger, now, describe });
  }
}

const PERMANENT = new Set<unknown>(["REDTHREAD_AUTH_FAILED", "REDTHREAD_CONFIG_INVALID"]);

function isPermanent(error: unknown): boolean {
  return PERMANENT.has((Object(error) as { code?: unknown }).code) || isDenied(error);
}
