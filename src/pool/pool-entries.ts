import type { Factory, Options, Pool } from "generic-pool";
import { isFinal } from "../core/failures.js";
import { requirePackage } from "../core/packages.js";
import { deferred, waitAtMost } from "../core/waiting.js";
import type { AcquireQueue } from "./acquire-queue.js";
import type { GuardedFactory } from "./guarded-factory.js";
import { ClientLease } from "./lease.js";
import type { CloseReason, ResolvedOptions } from "./pool-options.js";

/** The place of one client in the pool. This is what generic-pool holds. */
interface PoolEntry<T> {
  stage: "connecting" | "idle" | "checking" | "out" | "closing";
  client?: T;
  /** The client has not been found good yet. */
  isFresh: boolean;
  readonly attempt: AbortController;
  idleSince: number;
  expiresAt: number;
  /** The first reason is kept. */
  closeReason?: CloseReason;
  closed?: Promise<void>;
}

const EVICTION_MS = 30_000;

/**
 * The entries of a pool and their whole life, each step below the one before it:
 *
 *     connecting ─▶ idle ─▶ checking ─▶ out ─▶ idle ─▶ …
 *                     └─────────┴─────────┴──────┴───▶ closing
 *
 * generic-pool keeps the entries that are idle or lent, their maximum, their order, and evicts idle ones. It forgets an
 * entry as soon as its client starts to close; the set here holds each one that has a socket or is about to have one.
 */
export class PoolEntries<T> {
  isClosing = false;
  readonly #factory: GuardedFactory<T>;
  readonly #queue: AcquireQueue<ClientLease<T>>;
  readonly #options: ResolvedOptions;
  readonly #entries = new Set<PoolEntry<T>>();
  #freed = deferred();
  #suppliers = 0;
  #generic: Pool<PoolEntry<T>> | undefined;
  /**
   * The entry that came back last in this turn of the event loop. It is idle, but generic-pool still counts it as
   * borrowed: the next acquire of the turn gets it without the promises of generic-pool.
   */
  #recent: PoolEntry<T> | undefined;
  #isTurnEndAwaited = false;

  constructor(factory: GuardedFactory<T>, queue: AcquireQueue<ClientLease<T>>, options: ResolvedOptions) {
    this.#factory = factory;
    this.#queue = queue;
    this.#options = options;
  }

  count(stage: PoolEntry<T>["stage"]): number {
    let count = 0;
    for (const entry of this.#entries) if (entry.stage === stage) count++;
    return count;
  }

  forEachIdle(visit: (client: T) => void): void {
    for (const { stage, client } of this.#entries) if (stage === "idle" && client !== undefined) visit(client);
  }

  /** Lends the client that came back last in this turn, if there is one and it needs no check. */
  lendRecent(): ClientLease<T> | undefined {
    const entry = this.#recent;
    if (entry === undefined) return undefined;
    this.#recent = undefined;
    if (!this.#hasRested(entry) && this.#factory.isAlive(entry.client!)) return this.#lend(entry);
    this.#shelve(entry); // generic-pool gives it to a supplier, which checks it or finds it dead
    return undefined;
  }

  /**
   * Called once for each new waiter. There are as many suppliers as waiters, but they are not paired: when a waiter
   * leaves, its supplier (and a dial in progress) serves the next one.
   */
  supply(): void {
    if (this.#suppliers >= this.#queue.size) return;
    this.#suppliers++;
    void this.#bring(); // rejects only by a bug
  }

  closeOneIdle(): void {
    for (const entry of this.#entries) {
      if (entry.stage !== "idle") continue;
      // An idle entry that is borrowed is either the recent one, or on its way to a supplier.
      if (entry === this.#recent || !this.#pool.isBorrowedResource(entry)) return this.#discard(entry, "idle");
    }
  }

  /** Ends dials with `reason`, and closes each client: an idle one at once, a lent one after `ms` at the latest. */
  async close(ms: number, reason: Error): Promise<void> {
    this.isClosing = true;
    this.#queue.rejectAll(reason);
    for (const entry of this.#entries) {
      if (entry.stage === "connecting") entry.attempt.abort(reason);
      else if (entry.stage !== "out") this.#discard(entry, "shutdown");
    }
    await this.#emptied(ms);
    for (const entry of this.#entries) this.#discard(entry, "shutdown");
  }

  /** Settles once all are closed, or after `judgeMs`. */
  async closed(): Promise<void> {
    await this.#emptied(this.#options.judgeMs);
    // `drain` stops the evictor, and ends because nothing is borrowed any more. `clear` suits a pool that is never used again.
    void this.#generic?.drain().then(() => this.#generic!.clear());
  }

  /** For the first waiter: a thread that leases nothing does not load generic-pool. @throws THREAD_START_FAILED without it */
  load(): void {
    this.#generic ??= this.#makePool();
  }

  get #pool(): Pool<PoolEntry<T>> {
    return this.#generic!;
  }

  #makePool(): Pool<PoolEntry<T>> {
    const generic = requirePackage<GenericPool>("generic-pool");
    const { max, idleTimeoutMs, maxLifetimeMs } = this.#options;
    const factory = { create: () => this.#open(), destroy: (entry: PoolEntry<T>) => this.#retire(entry) };
    const isToEvict = (entry: PoolEntry<T>): boolean => this.#isToEvict(entry);
    class Evictor {
      evict(_config: unknown, { obj }: { readonly obj: PoolEntry<T> }): boolean {
        return isToEvict(obj);
      }
    }
    // Idle entries are looked at twice in the shorter of the two times, and at least every 30 s.
    const shortestMs = Math.ceil(Math.min(idleTimeoutMs, maxLifetimeMs) / 2);
    const evictionRunIntervalMillis = Math.max(1, Math.min(EVICTION_MS, shortestMs));
    // Last in, first out: otherwise each client is used now and then, and the pool never shrinks.
    const options = { max, min: 0, fifo: false, evictionRunIntervalMillis, numTestsPerEvictionRun: max };
    return new generic.Pool(Evictor, generic.Deque, generic.PriorityQueue, factory, options);
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
    } while (this.#suppliers <= this.#queue.size);
    this.#suppliers--;
  }

  /**
   * generic-pool's `create`. It never rejects, because generic-pool would call it again at once. After a failed dial the
   * entry has no client, and its supplier drops it.
   */
  async #open(): Promise<PoolEntry<T>> {
    const entry = await this.#add();
    const { now, random, maxLifetimeMs } = this.#options;
    try {
      // Without a waiter there is nothing to dial for: a dead server would be dialled for ever.
      if (this.#queue.size > 0) await this.#factory.pause(entry.attempt.signal);
      if (this.#queue.size > 0) entry.client = await this.#factory.open(entry.attempt);
    } catch (error) {
      this.#failed(error);
      entry.closeReason = this.isClosing ? "shutdown" : "failed";
    }
    entry.idleSince = now();
    entry.expiresAt = now() + maxLifetimeMs * (0.75 + random() / 4);
    entry.stage = "idle";
    if (this.isClosing) entry.closeReason = "shutdown";
    if (entry.client === undefined || this.isClosing) void this.#retire(entry);
    return entry;
  }

  /** Waits for room: generic-pool does not count connections that are being closed, but the server does. */
  async #add(): Promise<PoolEntry<T>> {
    const attempt = new AbortController();
    const entry: PoolEntry<T> = { stage: "connecting", isFresh: true, attempt, idleSince: 0, expiresAt: 0 };
    while (this.#entries.size >= this.#options.max) await this.#freed.promise;
    this.#entries.add(entry);
    return entry;
  }

  #failed(error: unknown): void {
    this.#factory.failed(error);
    if (isFinal(error)) this.#queue.rejectAll(error);
  }

  async #isGood(entry: PoolEntry<T>): Promise<boolean> {
    const { client, isFresh } = entry;
    // A client that was closed meanwhile looks alive until its QUIT is answered.
    if (client === undefined || entry.closed) return false;
    entry.stage = "checking";
    entry.isFresh = false;
    const hasRested = this.#hasRested(entry);
    const passed = this.#factory.isAlive(client) && (!hasRested || (await this.#factory.check(client)));
    if (passed && (isFresh || hasRested)) this.#factory.passed();
    if (passed) entry.idleSince = this.#options.now(); // also when no caller wants it any more
    // A server that accepts and hangs up is no better than one that refuses: it must not be dialled without a pause.
    if (!passed && isFresh) {
      const cause = this.#factory.lastError;
      this.#failed(new Error(`a ${this.#options.name} was dead on arrival`, { cause }));
      entry.closeReason = "failed";
    }
    return passed && this.#factory.isAlive(client); // it may have died during the check
  }

  #hasRested({ idleSince }: PoolEntry<T>): boolean {
    return this.#options.now() - idleSince > this.#options.idleCheckMs;
  }

  /** Gives the client to the first waiter; false if there is none. */
  #handOut(entry: PoolEntry<T>): boolean {
    return this.#queue.size > 0 && this.#queue.serve(this.#lend(entry));
  }

  #lend(entry: PoolEntry<T>): ClientLease<T> {
    entry.stage = "out";
    return new ClientLease(entry.client!, (isReusable) => this.#takeBack(entry, isReusable));
  }

  /** Returns no promise if the reset needs none: then the next waiter is served in this very turn. */
  #takeBack(entry: PoolEntry<T>, isReusable: boolean): Promise<void> | void {
    if (!isReusable) return this.#discard(entry, "dirty");
    const flaw = this.#flawOf(entry);
    if (flaw) return this.#discard(entry, flaw);
    const isClean = this.#factory.reset(entry.client!, this.#queue.size > 0);
    if (typeof isClean === "boolean") return this.#judge(entry, isClean);
    return isClean.then((found) => this.#judge(entry, found));
  }

  #judge(entry: PoolEntry<T>, isClean: boolean): void {
    const flaw = this.#flawOf(entry) ?? (isClean ? undefined : "dirty");
    if (flaw) this.#discard(entry, flaw);
    else if (!this.#handOut(entry)) this.#keepRecent(entry);
  }

  #flawOf(entry: PoolEntry<T>): CloseReason | undefined {
    return this.isClosing ? "shutdown" : this.#ageOrDeath(entry);
  }

  #ageOrDeath({ client, expiresAt }: PoolEntry<T>): CloseReason | undefined {
    if (client === undefined || !this.#factory.isAlive(client)) return "dead";
    return this.#options.now() >= expiresAt ? "lifetime" : undefined;
  }

  #keepRecent(entry: PoolEntry<T>): void {
    this.#shelveRecent();
    this.#recent = entry;
    entry.stage = "idle";
    entry.idleSince = this.#options.now();
    if (this.#isTurnEndAwaited) return;
    this.#isTurnEndAwaited = true;
    setImmediate(this.#endTurn);
  }

  readonly #endTurn = (): void => {
    this.#isTurnEndAwaited = false;
    this.#shelveRecent();
  };

  #shelveRecent(): void {
    const entry = this.#recent;
    this.#recent = undefined;
    if (entry) this.#shelve(entry);
  }

  /** Gives the entry back to generic-pool. */
  #shelve(entry: PoolEntry<T>): void {
    if (this.isClosing) return this.#discard(entry, "shutdown"); // `close` began after the client was found good
    entry.stage = "idle";
    void this.#pool.release(entry); // rejects only for an entry that is not borrowed
  }

  #isToEvict(entry: PoolEntry<T>): boolean {
    const isIdle = this.#options.now() - entry.idleSince > this.#options.idleTimeoutMs;
    const reason = this.#ageOrDeath(entry) ?? (isIdle ? "idle" : undefined);
    if (reason) entry.closeReason ??= reason;
    return reason !== undefined;
  }

  #discard(entry: PoolEntry<T>, reason: CloseReason): void {
    if (entry === this.#recent) this.#recent = undefined;
    entry.closeReason ??= reason;
    if (this.#pool.isBorrowedResource(entry)) void this.#pool.destroy(entry);
    else void this.#retire(entry);
  }

  /** generic-pool's `destroy`; never rejects. The entry counts in `max` until its client is closed. */
  #retire(entry: PoolEntry<T>): Promise<void> {
    entry.stage = "closing";
    return (entry.closed ??= this.#closeClient(entry));
  }

  async #closeClient(entry: PoolEntry<T>): Promise<void> {
    if (entry.client !== undefined) await this.#factory.close(entry.client);
    this.#entries.delete(entry);
    this.#freed.resolve();
    this.#freed = deferred();
    if (entry.closeReason) this.#options.onClosed?.(entry.closeReason); // otherwise nothing was dialled
  }

  /** Resolves when no entry is left, or after `ms`. */
  async #emptied(ms: number): Promise<void> {
    const empty = async (): Promise<void> => {
      while (this.#entries.size > 0) await this.#freed.promise;
    };
    await waitAtMost(ms, empty());
  }
}

/** generic-pool's types leave out the constructor that its own createPool uses, the only one that takes an evictor. */
interface GenericPool {
  Pool: new <S>(
    evictor: new () => { evict(config: unknown, resource: { readonly obj: S }): boolean },
    deque: unknown,
    queue: unknown,
    factory: Factory<S>,
    options: Options,
  ) => Pool<S>;
  Deque: unknown;
  PriorityQueue: unknown;
}
