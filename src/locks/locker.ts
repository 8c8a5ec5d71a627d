import { randomBytes } from "node:crypto";
import type { RedisConfig } from "../config/options.js";
import { errorCode } from "../core/log.js";
import { outside } from "../core/channels.js";
import { Deadlines, monotonic, sharedClock } from "../core/clock.js";
import { type LockLostError, NotInClusterError, ShuttingDownError } from "../core/errors.js";
import { abortable, onAbort, sleep, waitAtMost } from "../core/waiting.js";
import { HeldLock, type Lock } from "./held-lock.js";
import { KeeperLink } from "./keeper-link.js";
import type { HostEnd } from "./keeper-protocol.js";
import { KeptLock, type KeptLease, type LockKeeping } from "./kept-lock.js";
import { isTtl, type LockOptions, lockTimes, type LockTimes } from "./lock-options.js";
import { FILTERS_BYTES, ID_BYTES } from "./lock-nodes.js";
import { FENCES, fenceOf, holdersKey, isUntaggable } from "./lock-scripts.js";
import { LockRequests, type LockRequestsOptions } from "./lock-requests.js";
import { noFunction, noReplicasInCluster, notAcquired, otherLimit, readTooLate, tooLong } from "./lock-refusals.js";
import { type LockingTask, LockScopes, nameOf } from "./lock-scopes.js";
import { isAhead } from "../core/shared-time.js";
import { FETCHED, KEPT, type Lease, type LockRecord, OWNED, SHARED } from "./lock-table.js";
import { MAX_TEXT_BYTES, type Place, RecordPool } from "./record-pool.js";
import { type FirstTurn, type PassedLock, type Passes, ThreadQueues } from "./thread-queues.js";

/** The thread of a `Locker`. */
export interface LockerThread {
  /** Reaches the keeper's host. */
  attach(): Promise<HostEnd>;
  /** The task whose code runs now, if it is known. */
  currentTask?(): LockingTask | undefined;
}

export interface LockerOptions extends LockRequestsOptions {
  readonly thread: LockerThread;
  readonly redis: RedisConfig;
  /** Ends a keeper of this thread's own. */
  readonly closeKeeper?: (ms: number) => Promise<void>;
}

/** A lock that is asked for. */
interface Wanted {
  readonly key: string;
  /** With the `keyPrefix`. */
  readonly fullKey: string | Buffer;
  /** Of key and token, in shared memory. */
  readonly textBytes: number;
  readonly task: LockingTask | undefined;
  /** Its caller may ask for it again. */
  readonly leaveScope: () => void;
}

/** A lock that was acquired, or passed on by its holder. */
interface Got {
  readonly place: Place;
  readonly lease: Lease;
  /** With the state HELD. */
  readonly stamp: number;
  readonly fence: number | undefined;
  readonly passes: Passes;
  /** Other callers of this thread wait behind its holder. */
  readonly isFirst: boolean;
  readonly waitMs: number;
}

/** For so long after its acquire was sent a lock is passed on within a thread. The keeper has not extended it by then. */
const PASS_MS = 100;
const PASS_SHARE = 6;
/** The pause before a lock is tried again that too few replicas have acknowledged. */
const TOO_FEW_MS = 200;
/** Room for a token of ours. */
const TOKEN_BYTES = 32;
/** The least time for the end of a keeper, whatever was waited for before. */
const LAST_MS = 100;

/** Acquires and releases the locks of one thread. The keeper extends them meanwhile. */
export class Locker {
  readonly #options: LockerOptions;
  readonly #tokenPrefix = randomBytes(12).toString("base64url");
  readonly #records = new RecordPool((buffer, table) => this.#keeper.addTable(buffer, table));
  readonly #held = new Map<LockRecord, HeldLock | KeptLock>();
  /** Nothing else tells a loss while the keeper is blocked or gone. One timer for all locks, because one for each would cost more. */
  readonly #lossWatch = new Deadlines({ graceMs: 0, isRef: false, expire: () => outside(() => this.#lookAtAll()) });
  readonly #scopes = new LockScopes();
  readonly #queues = new ThreadQueues((by) => this.#records.countWaiting(by));
  readonly #life = new AbortController();
  readonly #keeper: KeeperLink;
  readonly #requests: LockRequests;
  #waiters = 0;
  #tokens = 0;
  /** How many acquires are under way. */
  #acquiring = 0;
  #onIdle: (() => void) | undefined;

  constructor(options: LockerOptions) {
    this.#options = options;
    this.#keeper = new KeeperLink({
      attach: () => options.thread.attach(),
      buffers: () => this.#records.buffers,
      isNeeded: () => this.#held.size > 0,
      onLost: (table, record) => this.#held.get(this.#records.at(table, record))?.look(),
      onFailure: (error) => {
        options.logger.error("no thread extends the locks that are held", { code: errorCode(error) });
      },
    });
    this.#requests = new LockRequests(options, this.#keeper, this.#records, this.#life.signal);
    onAbort(this.#life.signal, () => {}); // keeps the listener that all locks share, which costs more than a lock
  }

  async withLock<T>(key: string | Buffer, options: LockOptions, fn: (lock: Lock) => T | PromiseLike<T>): Promise<T> {
    if (typeof fn !== "function") throw noFunction();
    const task = this.#options.thread.currentTask?.();
    const lock = (await this.#acquire(key, options, task)) as HeldLock & Lock;
    try {
      const result = await this.#scopes.run(task, nameOf(key), () => fn(lock));
      const loss = await lock.end();
      if (loss) throw loss;
      return result;
    } catch (error) {
      const loss = await lock.end();
      if (loss && loss !== error && error instanceof Error && Object.isExtensible(error)) error.cause ??= loss;
      throw error;
    }
  }

  /** With a limit it has no fence, and its type says so to the caller. */
  acquire(key: string | Buffer, options: LockOptions): Promise<HeldLock & Lock> {
    return this.#acquire(key, options, this.#options.thread.currentTask?.()) as Promise<HeldLock & Lock>;
  }

  /** Resolves when the keeper is connected: locks of another client can be kept. */
  async keeping(): Promise<LockKeeping> {
    await abortable(this.#keeper.open(), this.#life.signal);
    return { keep: (lease) => this.#keep(lease), warn: (message) => this.#options.logger.warn(message, {}) };
  }

  /** Releases what is held, and takes no more locks. Never rejects. */
  async close(ms: number): Promise<void> {
    this.#life.abort(
      new ShuttingDownError("no more locks are taken: this process or thread shuts down", { outcome: "not-sent" }),
    );
    const held = [...this.#held.values()].map(async (lock) => lock.giveUp());
    const closed = Promise.all([...held, this.#idle()]);
    const deadline = monotonic() + ms;
    await waitAtMost(
      ms,
      closed.then(() => this.#requests.settled()),
    ); // behind them, what was in doubt
    this.#lossWatch.stop();
    this.#keeper.close();
    await this.#options.closeKeeper?.(Math.max(deadline - monotonic(), LAST_MS));
  }

  /** Resolves when no acquire is under way. */
  #idle(): Promise<void> | undefined {
    return this.#acquiring === 0 ? undefined : new Promise((resolve) => (this.#onIdle = resolve));
  }

  async #acquire(key: string | Buffer, options: LockOptions, task: LockingTask | undefined): Promise<HeldLock> {
    const times = lockTimes(key, options);
    const { keyPrefix, clusterNodes } = this.#options.redis;
    const fullKey = typeof key === "string" ? keyPrefix + key : Buffer.concat([Buffer.from(keyPrefix), key]);
    const textBytes = Buffer.byteLength(fullKey) + this.#roomFor(times);
    if (textBytes > MAX_TEXT_BYTES) throw tooLong(textBytes);
    if (clusterNodes && isUntaggable(fullKey)) {
      const why = 'holds a "}" and no hash tag: its fence could not lie on the same node of the Cluster';
      throw new NotInClusterError(`the lock's key ${String(key)} ${why}`, { outcome: "not-sent", command: "withLock" });
    }
    if (clusterNodes && times.replicas > 0) throw noReplicasInCluster();
    this.#life.signal.throwIfAborted();
    options.signal?.throwIfAborted();
    const shown = typeof key === "string" ? key : key.toString("latin1");
    const leaveScope = this.#scopes.enter(task, nameOf(key), shown);
    const [signal, stop] = this.#signalOf(options.signal);
    this.#acquiring++;
    try {
      if (!this.#keeper.isOpen) await abortable(this.#keeper.open(), signal);
      return await this.#acquireInTime({ key: shown, fullKey, textBytes, task, leaveScope }, times, signal);
    } catch (error) {
      leaveScope();
      throw error;
    } finally {
      stop();
      if (--this.#acquiring === 0) this.#onIdle?.();
    }
  }

  /** Aborts with the caller's signal and with the end of this thread's locks. Node 20 and 22 keep a trace of each AbortSignal.any(). */
  #signalOf(given: AbortSignal | undefined): [signal: AbortSignal, stop: () => void] {
    const life = this.#life.signal;
    if (!given) return [life, () => {}];
    const both = new AbortController();
    const stops = [given, life].map((one) => onAbort(one, () => both.abort(one.reason)));
    return [both.signal, () => stops.forEach((stop) => stop())];
  }

  /** For the token and the connection, and with a limit for the names of the key and the holder as well. */
  #roomFor({ limit }: LockTimes): number {
    const bytes = TOKEN_BYTES + (this.#options.redis.clusterNodes ? FILTERS_BYTES : ID_BYTES);
    return limit === 1 ? bytes : bytes + TOKEN_BYTES + Buffer.byteLength(this.#options.holder);
  }

  #keep({ kind, key, token, ttlMs, onLost }: KeptLease): KeptLock | undefined {
    const whole = Buffer.from(key);
    const bytes = whole.length + Buffer.byteLength(token);
    if (!isTtl(ttlMs) || bytes > MAX_TEXT_BYTES || this.#life.signal.aborted) return undefined;
    const place = this.#records.take(bytes);
    const { record } = place;
    const lease = { key: whole, token, ttlMs, maxHoldMs: Infinity, replicas: 0 };
    const now = sharedClock();
    const begun = record.begin({ ...lease, kind: kind === "job" ? KEPT : FETCHED }, "", now);
    const stamp = kind === "job" ? record.confirm(begun, now)! : begun;
    const onEnd = (): void => {
      this.#held.delete(record);
      this.#records.giveBack(place);
    };
    const lock = new KeptLock({ record, stamp, onLost, onEnd });
    this.#held.set(record, lock);
    if (!this.#keeper.isOpen) this.#keeper.openAgain();
    this.#requests.begun(place);
    return lock;
  }

  async #acquireInTime(wanted: Wanted, times: LockTimes, signal: AbortSignal): Promise<HeldLock> {
    const { fullKey } = wanted;
    const startedAt = monotonic();
    const name = nameOf(fullKey);
    // Several holders do not wait for each other, and a caller that does not wait asks Redis in any case.
    const isAlone = times.limit > 1 || this.#queues.enter(name);
    if (isAlone || times.waitMs === 0)
      return this.#contend(wanted, times, startedAt, signal, isAlone ? "ask" : undefined);
    const turn = await this.#queues.wait(name, times, signal, (late) => this.#undo(wanted, times, late));
    if (turn && signal.aborted) {
      this.#undo(wanted, times, turn);
      signal.throwIfAborted();
    }
    if (typeof turn === "object") return this.#takeOver(wanted, times, turn, monotonic() - startedAt);
    return this.#contend(wanted, times, startedAt, signal, turn);
  }

  /** The turn that a caller had when its signal aborted. */
  #undo(wanted: Wanted, times: LockTimes, turn: FirstTurn): void {
    if (typeof turn !== "object") return this.#queues.next(nameOf(wanted.fullKey), turn);
    const lock = this.#takeOver({ ...wanted, task: undefined, leaveScope: () => {} }, times, turn, 0);
    this.#requests.later(lock.end());
  }

  #takeOver(wanted: Wanted, { ttlMs, maxHoldMs, replicas }: LockTimes, passed: PassedLock, waitMs: number): HeldLock {
    const { place, stamp, key, token, fence, passes } = passed;
    const lease: Lease = { kind: OWNED, key, token, ttlMs, maxHoldMs, replicas };
    return this.#hold(wanted, { place, lease, stamp, fence, passes, isFirst: true, waitMs });
  }

  /** Asks Redis until it has the lock. Without a `turn` other callers of this thread come before it. */
  async #contend(
    wanted: Wanted,
    times: LockTimes,
    startedAt: number,
    signal: AbortSignal,
    turn: "ask" | "wait" | undefined,
  ): Promise<HeldLock> {
    const { key, fullKey, textBytes } = wanted;
    const { waitMs, ttlMs, limit } = times;
    const place = this.#records.take(textBytes);
    const { record } = place;
    const isFirst = turn !== undefined && limit === 1;
    const waiter = this.#waiters++;
    let isWaiting = turn === "wait";
    const leave = (acquired?: { ttlMs: number }): void => {
      if (isWaiting) this.#keeper.tell({ type: "leave", id: waiter, key: fullKey, ...acquired });
    };
    try {
      if (isWaiting) await this.#turn(waiter, fullKey, ttlMs, startedAt + waitMs - monotonic(), signal);
      for (;;) {
        const lease = this.#leaseOf(fullKey, times);
        const [answer, sent, sentAt] = await this.#requests.acquire(place, lease, limit, startedAt + waitMs, signal);
        const stamp = answer.isAcquired ? record.confirm(sent, sharedClock()) : undefined;
        const waitedMs = monotonic() - startedAt;
        if (stamp !== undefined) {
          const isShared = lease.kind === SHARED;
          leave({ ttlMs: isShared ? 0 : ttlMs });
          const fence = isShared ? undefined : fenceOf(answer.held);
          const passes = passesOf(sentAt, ttlMs);
          return this.#hold(wanted, { place, lease, stamp, fence, passes, isFirst, waitMs: waitedMs });
        }
        record.free();
        if (answer.isAcquired) await this.#requests.release(lease); // its time was over before the reply was read
        if (answer.otherLimit !== undefined) throw otherLimit(key, limit, answer.otherLimit);
        if (waitedMs >= waitMs)
          throw answer.isAcquired ? readTooLate(key, waitedMs) : notAcquired(key, waitedMs, answer, lease);
        // The lock is free: only a pause keeps this caller from loading the replicas.
        if (answer.acknowledged !== undefined) await sleep(Math.min(TOO_FEW_MS, waitMs - waitedMs), signal);
        isWaiting = true;
        await this.#turn(waiter, fullKey, answer.ttlLeftMs, waitMs - waitedMs, signal);
      }
    } catch (error) {
      leave();
      if (!place.isInDoubt) this.#records.giveBack(place);
      if (isFirst) this.#queues.next(nameOf(fullKey), "ask");
      throw error;
    }
  }

  #leaseOf(fullKey: string | Buffer, { ttlMs, maxHoldMs, limit, replicas }: LockTimes): Lease {
    const token = `${this.#tokenPrefix}${(this.#tokens++).toString(36)}`;
    if (limit === 1) return { kind: OWNED, key: fullKey, token, ttlMs, maxHoldMs, replicas };
    const holder = `${token} ${this.#options.holder}`;
    return { kind: SHARED, key: holdersKey(fullKey), token: holder, ttlMs, maxHoldMs, replicas };
  }

  /** Resolves when the keeper says so, or after `ms`. */
  async #turn(id: number, key: string | Buffer, ttlLeftMs: number, ms: number, signal: AbortSignal): Promise<void> {
    this.#records.countWaiting(1);
    try {
      await abortable(this.#keeper.open(), signal);
      const turn = this.#keeper.turn({ type: "wait", id, key, ttlLeftMs }, ms);
      await abortable(turn.come, signal).finally(() => turn.stop());
    } finally {
      this.#records.countWaiting(-1);
    }
  }

  #hold({ key, fullKey, task, leaveScope }: Wanted, got: Got): HeldLock {
    const { place, lease, stamp, fence, waitMs } = got;
    const { record } = place;
    const name = nameOf(fullKey);
    let { isFirst } = got;
    const next = (turn: FirstTurn): void => {
      if (isFirst) this.#queues.next(name, turn);
      isFirst = false;
    };
    const lock = new HeldLock({
      key,
      record,
      stamp,
      fence,
      waitMs,
      onLost: (loss, isFound) => {
        next("ask");
        this.#lost(loss, isFound, got, task);
      },
      passOn: () => {
        const passed = isFirst ? this.#passOn(name, got) : undefined;
        if (!passed) return false;
        leaveScope(); // first: the task may ask for it again at once
        this.#held.delete(record);
        next(passed);
        return true;
      },
      end: async (isGone) => {
        leaveScope();
        next("wait"); // so that callers in other threads and processes have their turns, too
        if (!isGone) await this.#requests.release(lease);
        this.#held.delete(record);
        this.#records.giveBack(place);
      },
    });
    this.#held.set(record, lock);
    if (!this.#keeper.isOpen) this.#keeper.openAgain(); // it ended while the lock was acquired
    this.#lossWatch.arm(monotonic() + lock.untilLookMs());
    if (this.#life.signal.aborted) this.#requests.later(lock.giveUp()); // `close` has not seen it
    return lock;
  }

  #lost(loss: LockLostError, isFound: boolean, { place, lease }: Got, task: LockingTask | undefined): void {
    if (isFound) this.#keeper.countLoss(place.record.loss);
    if (isFound && loss.reason === "maxHold") this.#requests.releaseLater(lease); // its holder hangs
    task?.lostLock(loss);
    this.#options.logger.warn("a lock was lost", { reason: loss.reason, heldMs: loss.heldMs });
  }

  /** The lock for the next caller of this thread, if it may have it. */
  #passOn(name: string, { place, lease, stamp, fence, passes }: Got): PassedLock | undefined {
    const next = this.#queues.peek(name);
    const now = sharedClock();
    if (next?.ttlMs !== lease.ttlMs || next.replicas !== lease.replicas) return undefined;
    if (passes.left === 0 || !isAhead(passes.until, now)) return undefined;
    const passed = place.record.passOn(stamp, next.maxHoldMs, now);
    if (passed === undefined) return undefined;
    const { key, token } = lease;
    return { place, stamp: passed, key, token, fence: fence! + 1, passes: { ...passes, left: passes.left - 1 } };
  }

  /** Returns when the next look is due. Called outside of the contexts of callers, because a listener hears of a loss in it. */
  #lookAtAll(): number {
    let untilLookMs = Infinity;
    for (const lock of this.#held.values())
      if (lock instanceof HeldLock) untilLookMs = Math.min(untilLookMs, lock.untilLookMs());
    return monotonic() + untilLookMs;
  }
}

function passesOf(sentAt: number, ttlMs: number): Passes {
  return { left: FENCES - 1, until: (sentAt + Math.min(PASS_MS, ttlMs / PASS_SHARE)) | 0 };
}
