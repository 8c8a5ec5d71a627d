import { AsyncLocalStorage } from "node:async_hooks";
import { randomBytes } from "node:crypto";
import type { MessagePort } from "node:worker_threads";
import type { RedisHandle } from "../commands/ioredis.js";
import type { RedisConfig } from "../config/options.js";
import { errorCode, type Logger } from "../core/log.js";
import { monotonic, randomBetween, sharedClock } from "../core/clock.js";
import {
  ConfigInvalidError,
  type LockLostError,
  LockNotAcquiredError,
  NotInClusterError,
  type Outcome,
  ShuttingDownError,
} from "../core/errors.js";
import { abortable, deferred, onAbort, sleep, waitAtMost } from "../core/waiting.js";
import { HeldLock, type Lock } from "./held-lock.js";
import { KeeperLedger } from "./keeper-ledger.js";
import type { FromOwner, KeeperEnd, ToOwner } from "./keeper-protocol.js";
import { KeptLock, type KeptLease, type LockKeeping } from "./kept-lock.js";
import { isTtl, type LockOptions, lockTimes, type LockTimes } from "./lock-options.js";
import {
  acquire,
  type Acquired,
  acquireShared,
  fenceOf,
  holderOf,
  holdersKey,
  isUntaggable,
  release,
} from "./lock-scripts.js";
import { FETCHED, KEPT, type Lease, type LockRecord, OWNED, SHARED } from "./lock-table.js";
import { MAX_TEXT_BYTES, type Place, RecordPool } from "./record-pool.js";

/** The thread of a `Locker`. */
export interface LockerThread {
  attach(): Promise<KeeperEnd>;
  /** The task whose code runs now, if it is known. */
  currentTask?(): LockingTask | undefined;
}

/** A task that may hold locks. */
export interface LockingTask {
  lostLock(loss: LockLostError): void;
}

export interface LockerOptions {
  readonly thread: LockerThread;
  readonly getRedis: (signal?: AbortSignal) => Promise<RedisHandle>;
  readonly redis: RedisConfig;
  /** What others are told of a holder. */
  readonly holder: string;
  readonly logger: Logger;
}

/** A call of `withLock`, while its function runs. */
interface Scope {
  readonly key: string;
  isOpen: boolean;
  readonly outer: Scope | undefined;
}

/** A lock that is asked for. */
interface Wanted {
  readonly key: string;
  /** With the `keyPrefix`. */
  readonly whole: string | Buffer;
  readonly place: Place;
  readonly task: LockingTask | undefined;
}

type Asked = Omit<Lease, "connection">;

/** Room for a token of ours. */
const TOKEN_BYTES = 32;
/** The longest pause before an acquire is sent again whose reply was lost. */
const AGAIN_MS = 50;

/** Acquires and releases the locks of one thread. The keeper extends them meanwhile. */
export class Locker {
  readonly #options: LockerOptions;
  readonly #tokenPrefix = randomBytes(12).toString("base64url");
  readonly #records = new RecordPool((buffer) => this.#tell({ type: "table", buffer }));
  readonly #held = new Map<LockRecord, HeldLock | KeptLock>();
  /** The keys of the locks that each task holds or asks for. */
  readonly #ofTask = new WeakMap<LockingTask, Set<string>>();
  /** The locks inside whose `withLock` the running code is. */
  readonly #scope = new AsyncLocalStorage<Scope>();
  readonly #life = new AbortController();
  /** By their numbers, the waiters for a turn. */
  readonly #turns = new Map<number, () => void>();
  /** The server's numbers of connections, by their streams. */
  readonly #connections = new WeakMap<object, number | Promise<number>>();
  #waiters = 0;
  #tokens = 0;
  #port: MessagePort | undefined;
  #ledger: KeeperLedger | undefined;
  #attaching: Promise<void> | undefined;

  constructor(options: LockerOptions) {
    this.#options = options;
    onAbort(this.#life.signal, () => {}); // keeps the listener that all locks share, which costs more than a lock
  }

  async withLock<T>(key: string | Buffer, options: LockOptions, fn: (lock: Lock) => Promise<T>): Promise<T> {
    const lock = await this.acquire(key, options);
    const scope: Scope = { key: String(key), isOpen: true, outer: this.#scope.getStore() };
    try {
      const result = await this.#scope.run(scope, fn, lock);
      const loss = await lock.end();
      if (loss) throw loss;
      return result;
    } catch (error) {
      const loss = await lock.end();
      if (loss && loss !== error && error instanceof Error) error.cause ??= loss;
      throw error;
    } finally {
      scope.isOpen = false; // what `fn` has started may go on
    }
  }

  /** With a limit it has no fence, and its type says so to the caller. */
  acquire(key: string | Buffer, options: LockOptions): Promise<HeldLock & Lock> {
    return this.#acquire(key, options) as Promise<HeldLock & Lock>;
  }

  /** Resolves when the keeper is connected: locks of another client can be kept. */
  async keeping(): Promise<LockKeeping> {
    await abortable(this.#attach(), this.#life.signal);
    return { keep: (lease) => this.#keep(lease), warn: (message) => this.#options.logger.warn(message, {}) };
  }

  /** Releases what is held, and takes no more locks. Never rejects. */
  async close(ms: number): Promise<void> {
    this.#life.abort(new ShuttingDownError("this thread closes its locks", { outcome: "not-sent" }));
    await waitAtMost(ms, Promise.all([...this.#held.values()].map(async (lock) => lock.giveUp())));
    this.#port?.close();
  }

  async #acquire(key: string | Buffer, options: LockOptions): Promise<HeldLock> {
    const times = lockTimes(key, options);
    const { keyPrefix, clusterNodes } = this.#options.redis;
    const whole = typeof key === "string" ? keyPrefix + key : Buffer.concat([Buffer.from(keyPrefix), key]);
    if (clusterNodes && isUntaggable(whole)) {
      const why = 'holds a "}" and no hash tag: its fence could not lie on the same node of the Cluster';
      throw new NotInClusterError(`the lock's key ${String(key)} ${why}`, { outcome: "not-sent", command: "withLock" });
    }
    const signal = options.signal ? AbortSignal.any([options.signal, this.#life.signal]) : this.#life.signal;
    signal.throwIfAborted();
    const name = String(key);
    const task = this.#options.thread.currentTask?.();
    const keys = this.#keysOf(task);
    if (keys.has(name) || isInside(this.#scope.getStore(), name)) throw heldAlready(name);
    keys.add(name);
    try {
      if (!this.#port) await abortable(this.#attach(), signal);
      const place = this.#records.take(Buffer.byteLength(whole) + this.#roomFor(times));
      try {
        return await this.#try({ key: name, whole, place, task }, times, signal);
      } catch (error) {
        this.#records.giveBack(place);
        throw error;
      }
    } catch (error) {
      keys.delete(name);
      throw error;
    }
  }

  /** For the token, and with a limit for the names of the key and the holder as well. */
  #roomFor({ limit }: LockTimes): number {
    return limit === 1 ? TOKEN_BYTES : 2 * TOKEN_BYTES + Buffer.byteLength(this.#options.holder);
  }

  #keep({ kind, key, token, ttlMs, onLost }: KeptLease): KeptLock | undefined {
    const whole = Buffer.from(key);
    const bytes = whole.length + Buffer.byteLength(token);
    if (!isTtl(ttlMs) || bytes > MAX_TEXT_BYTES || this.#life.signal.aborted) return undefined;
    const place = this.#records.take(bytes);
    const { record } = place;
    const lease = { key: whole, token, ttlMs, maxHoldMs: Infinity, connection: 0 };
    const now = sharedClock();
    const begun = record.begin({ ...lease, kind: kind === "job" ? KEPT : FETCHED }, now);
    const stamp = kind === "job" ? record.confirm(begun, now)! : begun;
    const onEnd = (): void => {
      this.#held.delete(record);
      this.#records.giveBack(place);
    };
    const lock = new KeptLock({ record, stamp, onLost, onEnd });
    this.#held.set(record, lock);
    if (!this.#port) this.#attachAgain();
    this.#wake(place);
    return lock;
  }

  /** Without a task nothing is known of the callers: each has a set of its own. */
  #keysOf(task: LockingTask | undefined): Set<string> {
    const keys = (task && this.#ofTask.get(task)) ?? new Set();
    if (task) this.#ofTask.set(task, keys);
    return keys;
  }

  async #try(wanted: Wanted, times: LockTimes, signal: AbortSignal): Promise<HeldLock> {
    const { key, whole, place } = wanted;
    const { record } = place;
    const { waitMs } = times;
    const startedAt = monotonic();
    const waiter = this.#waiters++;
    let isWaiting = false;
    const leave = (acquired?: { ttlMs: number }): void => {
      if (isWaiting) this.#tell({ type: "leave", id: waiter, key: whole, ...acquired });
    };
    try {
      for (;;) {
        const lease = this.#leaseOf(whole, times);
        const [answer, stamp] = await this.#ask(place, lease, times.limit, startedAt + waitMs, signal);
        const held = answer.isAcquired ? record.confirm(stamp, sharedClock()) : undefined;
        if (held !== undefined) {
          leave({ ttlMs: times.ttlMs });
          return this.#hold(wanted, lease, held, answer.held, monotonic() - startedAt);
        }
        record.free();
        if (answer.isAcquired) await this.#release(lease); // its time was over before the reply was read
        if (answer.otherLimit !== undefined) throw otherLimit(key, times.limit, answer.otherLimit);
        const waitedMs = monotonic() - startedAt;
        if (waitedMs >= waitMs) throw notAcquired(key, waitedMs, answer, lease);
        isWaiting = true;
        await this.#turn(waiter, whole, answer.ttlLeftMs, waitMs - waitedMs, signal);
      }
    } catch (error) {
      leave();
      throw error;
    }
  }

  #leaseOf(whole: string | Buffer, { ttlMs, maxHoldMs, limit }: LockTimes): Asked {
    const token = `${this.#tokenPrefix}${(this.#tokens++).toString(36)}`;
    if (limit === 1) return { kind: OWNED, key: whole, token, ttlMs, maxHoldMs };
    return { kind: SHARED, key: holdersKey(whole), token: `${token} ${this.#options.holder}`, ttlMs, maxHoldMs };
  }

  /** Resolves when the keeper says so, or after `ms`. */
  async #turn(id: number, key: string | Buffer, ttlLeftMs: number, ms: number, signal: AbortSignal): Promise<void> {
    await abortable(this.#attach(), signal);
    const { promise, resolve } = deferred();
    this.#turns.set(id, resolve);
    this.#tell({ type: "wait", id, key, ttlLeftMs });
    try {
      await abortable(waitAtMost(ms, promise, 0), signal);
    } finally {
      this.#turns.delete(id);
      resolve(); // ends the timer
    }
  }

  /** Sends the acquire, and once more with the same token if its reply is lost: the first one may have acquired the lock. */
  async #ask(
    place: Place,
    lease: Asked,
    limit: number,
    deadline: number,
    signal: AbortSignal,
  ): Promise<[Acquired, stamp: number]> {
    const { getRedis, holder } = this.#options;
    const { record } = place;
    const { key, token, ttlMs } = lease;
    let stamp: number | undefined;
    let isInDoubt = false;
    let asking: Promise<unknown> = Promise.resolve();
    try {
      for (;;) {
        const redis = await getRedis(signal);
        const number = this.#numberOf(redis);
        const connection = typeof number === "number" ? number : await number;
        if (stamp === undefined) stamp = record.begin({ ...lease, connection }, sharedClock());
        else record.sentAgain(stamp, sharedClock());
        this.#wake(place);
        const answer =
          lease.kind === SHARED
            ? acquireShared(redis, key, token, ttlMs, limit)
            : acquire(redis, key, token, ttlMs, holder);
        asking = answer;
        try {
          // The reply comes soon, and an abort by `close` can be told then: a race would cost more than the lock.
          const acquired = await (signal === this.#life.signal ? answer : abortable(answer, signal));
          signal.throwIfAborted();
          return [acquired, stamp];
        } catch (error) {
          isInDoubt ||= signal.aborted || (error as { outcome?: Outcome }).outcome === "unknown";
          if (!isInDoubt || signal.aborted || monotonic() >= deadline) throw error;
        }
        await sleep(randomBetween(0, AGAIN_MS), signal);
      }
    } catch (error) {
      record.free();
      const free = (): Promise<void> => this.#release(lease);
      if (isInDoubt) void asking.then(free, free);
      throw error;
    }
  }

  /** The keeper needs it to end the connection, should this thread end while a command of its is on the way. */
  #numberOf(redis: RedisHandle): number | Promise<number> {
    const { stream } = redis as { stream?: object };
    if (!stream) return 0; // of a Cluster
    const known = this.#connections.get(stream);
    if (known !== undefined) return known;
    // An old server, or a user without the right, does not tell.
    const asked = Promise.resolve(redis.client("ID")).catch(() => 0);
    this.#connections.set(stream, asked);
    return asked.then((number) => {
      this.#connections.set(stream, number);
      return number;
    });
  }

  #hold({ key, place, task }: Wanted, lease: Asked, stamp: number, held: string, waitMs: number): HeldLock {
    const { record } = place;
    const lock = new HeldLock({
      key,
      record,
      stamp,
      fence: lease.kind === SHARED ? undefined : fenceOf(held),
      waitMs,
      onLost: (loss, isFound) => {
        if (isFound) this.#ledger?.lost(loss.reason);
        this.#options.logger.warn("a lock was lost", { reason: loss.reason, heldMs: loss.heldMs });
        task?.lostLock(loss);
      },
      end: async (isGone) => {
        if (!isGone) await this.#release(lease);
        this.#held.delete(record);
        this.#keysOf(task).delete(key);
        this.#records.giveBack(place);
      },
    });
    this.#held.set(record, lock);
    return lock;
  }

  /** Never rejects: a lock that cannot be released ends with its ttl. */
  async #release({ kind, key, token }: Asked): Promise<void> {
    try {
      const redis = await this.#options.getRedis();
      await release(redis, kind, key, token);
    } catch (error) {
      this.#options.logger.warn("a lock could not be released, and ends with its ttl", { code: errorCode(error) });
    }
  }

  async #attach(): Promise<void> {
    if (this.#port) return;
    await (this.#attaching ??= this.#attachOnce().finally(() => (this.#attaching = undefined)));
  }

  async #attachOnce(): Promise<void> {
    const { port, ledger } = await this.#options.thread.attach();
    this.#port = port;
    this.#ledger = new KeeperLedger(ledger);
    port.unref();
    port.on("message", (message: ToOwner) => {
      if (message.type === "turn") this.#turns.get(message.id)?.();
      else this.#held.get(this.#records.at(message.table, message.record))?.look();
    });
    port.once("close", () => this.#keeperGone(port));
    for (const buffer of this.#records.buffers) this.#tell({ type: "table", buffer });
  }

  /** What is held needs another keeper, before its time is over. */
  #keeperGone(port: MessagePort): void {
    if (this.#port !== port) return;
    this.#port = undefined;
    for (const turn of this.#turns.values()) turn(); // they ask the next keeper
    if (!this.#life.signal.aborted && this.#held.size > 0) this.#attachAgain();
  }

  #attachAgain(): void {
    this.#attach().catch((error: unknown) => {
      this.#options.logger.error("no thread extends the locks that are held", { code: errorCode(error) });
    });
  }

  /** A lock was begun. */
  #wake(place: Place): void {
    if (this.#records.wake(place)) this.#tell({ type: "wake" });
  }

  #tell(message: FromOwner): void {
    this.#port?.postMessage(message);
  }
}

function isInside(scope: Scope | undefined, key: string): boolean {
  for (let at = scope; at; at = at.outer) if (at.isOpen && at.key === key) return true;
  return false;
}

function heldAlready(key: string): LockNotAcquiredError {
  const why = "its caller holds or awaits it already, and would wait for itself: locks are not re-entrant";
  return new LockNotAcquiredError(`no lock ${key}: ${why}`, { outcome: "refused", key, waitedMs: 0 });
}

function otherLimit(key: string, limit: number, other: number): ConfigInvalidError {
  const problem = `the holders of the lock ${key} have named the limit ${other}, and this caller ${limit}`;
  return new ConfigInvalidError(problem, { outcome: "refused", problems: [problem] });
}

function notAcquired(key: string, waitedMs: number, { held, ttlLeftMs }: Acquired, { kind }: Asked): Error {
  const { name, since } = holderOf(held, kind);
  const how = since === undefined ? "is one of its holders" : `holds it since ${new Date(since).toISOString()}`;
  const by = `${name} ${how}, for ${ttlLeftMs} ms more unless it is extended`;
  return new LockNotAcquiredError(`no lock ${key} within ${Math.round(waitedMs)} ms: ${by}`, {
    outcome: "refused",
    key,
    waitedMs,
    holder: { name, ttlLeftMs, ...(since !== undefined && { since }) },
  });
}
