import { randomBytes } from "node:crypto";
import type { MessagePort } from "node:worker_threads";
import type { RedisHandle } from "../commands/ioredis.js";
import type { RedisConfig } from "../config/options.js";
import { errorCode, type Logger } from "../core/log.js";
import { monotonic, randomBetween, sharedClock } from "../core/clock.js";
import { LockNotAcquiredError, NotInClusterError, type Outcome, ShuttingDownError } from "../core/errors.js";
import { abortable, sleep, waitAtMost } from "../core/waiting.js";
import { HeldLock, type Lock } from "./held-lock.js";
import type { FromOwner, LostMessage } from "./keeper-protocol.js";
import { type LockOptions, lockTimes, type LockTimes } from "./lock-options.js";
import { acquire, type Acquired, isUntaggable, release } from "./lock-scripts.js";
import { type LockRecord, LockTable } from "./lock-table.js";

export interface LockerOptions {
  /** The port to a keeper that is connected. */
  readonly attach: () => Promise<MessagePort>;
  readonly getRedis: (signal?: AbortSignal) => Promise<RedisHandle>;
  readonly redis: RedisConfig;
  /** What others are told of a holder. */
  readonly holder: string;
  readonly logger: Logger;
}

/** A record, and how the keeper knows it. */
interface Place {
  readonly record: LockRecord;
  readonly table: number;
  readonly index: number;
  readonly size: Size;
}

/** The counts and bytes of the two kinds of tables: for usual keys, and for very long ones. */
const SIZES = [
  { count: 32, textBytes: 256 },
  { count: 4, textBytes: 4_160 },
] as const;
type Size = (typeof SIZES)[number];

/** Room for a token. */
const TOKEN_BYTES = 32;
/** The pauses between two looks at a lock that another holder has. */
const LOOK_AGAIN_MS = 50;
const MAX_LOOK_MS = 500;

/** Acquires and releases the locks of one thread. The keeper extends them meanwhile. */
export class Locker {
  readonly #options: LockerOptions;
  readonly #tokenPrefix = randomBytes(12).toString("base64url");
  readonly #tables: LockTable[] = [];
  readonly #free = new Map<Size, Place[]>(SIZES.map((size) => [size, []]));
  readonly #held = new Map<LockRecord, HeldLock>();
  readonly #life = new AbortController();
  #tokens = 0;
  #port: MessagePort | undefined;
  #attaching: Promise<void> | undefined;

  constructor(options: LockerOptions) {
    this.#options = options;
  }

  async withLock<T>(key: string | Buffer, options: LockOptions, fn: (lock: Lock) => Promise<T>): Promise<T> {
    const lock = await this.#acquire(key, options);
    let result: T;
    try {
      result = await fn(lock);
    } catch (error) {
      const loss = await lock.end();
      if (loss && loss !== error && error instanceof Error) error.cause ??= loss;
      throw error;
    }
    const loss = await lock.end();
    if (loss) throw loss;
    return result;
  }

  acquire(key: string | Buffer, options: LockOptions): Promise<Lock> {
    return this.#acquire(key, options);
  }

  /** Releases what is held, and takes no more locks. Never rejects. */
  async close(ms: number): Promise<void> {
    this.#life.abort(new ShuttingDownError("this thread closes its locks", { outcome: "not-sent" }));
    await waitAtMost(ms, Promise.all([...this.#held.values()].map((lock) => lock.end())));
    this.#port?.close();
  }

  async #acquire(key: string | Buffer, options: LockOptions): Promise<HeldLock> {
    const times = lockTimes(key, options);
    const { keyPrefix, clusterNodes } = this.#options.redis;
    const whole = Buffer.concat([Buffer.from(keyPrefix), Buffer.from(key as string)]);
    if (clusterNodes && isUntaggable(whole)) {
      const why = 'holds a "}" and no hash tag: its fence could not lie on the same node of the Cluster';
      throw new NotInClusterError(`the lock's key ${String(key)} ${why}`, { outcome: "not-sent", command: "withLock" });
    }
    const signal = options.signal ? AbortSignal.any([options.signal, this.#life.signal]) : this.#life.signal;
    signal.throwIfAborted();
    await abortable(this.#attach(), signal);
    const place = this.#take(whole.length);
    try {
      return await this.#try(String(key), whole, place, times, signal);
    } catch (error) {
      this.#giveBack(place);
      throw error;
    }
  }

  async #try(key: string, whole: Buffer, place: Place, times: LockTimes, signal: AbortSignal): Promise<HeldLock> {
    const { record } = place;
    const { ttlMs, maxHoldMs, waitMs } = times;
    const startedAt = monotonic();
    for (let tries = 1; ; tries++) {
      const token = `${this.#tokenPrefix}${(this.#tokens++).toString(36)}`;
      const begin = (): number => record.begin({ key: whole, token, ttlMs, maxHoldMs }, sharedClock());
      const [answer, stamp] = await this.#ask(place, whole, token, begin, startedAt + waitMs, signal);
      const held = answer.isAcquired ? record.confirm(stamp, sharedClock()) : undefined;
      if (held !== undefined) return this.#hold(key, whole, token, place, held, answer.holder.fence);
      record.free();
      if (answer.isAcquired) await this.#release(whole, token); // its time was over before the reply was read
      const waitedMs = monotonic() - startedAt;
      if (waitedMs >= waitMs) throw notAcquired(key, waitedMs, answer);
      await sleep(Math.min(waitMs - waitedMs, pauseMs(tries)), signal);
    }
  }

  /** Sends the acquire, and once more with the same token if its reply is lost: the first one may have acquired the lock. */
  async #ask(
    { record, table }: Place,
    whole: Buffer,
    token: string,
    begin: () => number,
    deadline: number,
    signal: AbortSignal,
  ): Promise<[Acquired, stamp: number]> {
    const { getRedis, holder } = this.#options;
    let stamp: number | undefined;
    let isInDoubt = false;
    let asking: Promise<unknown> = Promise.resolve();
    try {
      for (;;) {
        const redis = await getRedis(signal);
        if (stamp === undefined) stamp = begin();
        else record.sentAgain(stamp, sharedClock());
        if (this.#tables[table]!.wake()) this.#tell({ type: "wake" });
        const answer = acquire(redis, whole, token, record.ttlMs, holder);
        asking = answer;
        try {
          return [await abortable(answer, signal), stamp];
        } catch (error) {
          isInDoubt ||= signal.aborted || (error as { outcome?: Outcome }).outcome === "unknown";
          if (!isInDoubt || signal.aborted || monotonic() >= deadline) throw error;
        }
        await sleep(randomBetween(0, LOOK_AGAIN_MS), signal);
      }
    } catch (error) {
      record.free();
      const free = (): Promise<void> => this.#release(whole, token);
      if (isInDoubt) void asking.then(free, free);
      throw error;
    }
  }

  #hold(key: string, whole: Buffer, token: string, place: Place, stamp: number, fence: number): HeldLock {
    const { record } = place;
    const lock = new HeldLock({
      key,
      record,
      stamp,
      fence,
      onLost: (loss) => this.#options.logger.warn("a lock was lost", { reason: loss.reason, heldMs: loss.heldMs }),
      end: async (isGone) => {
        if (!isGone) await this.#release(whole, token);
        this.#held.delete(record);
        this.#giveBack(place);
      },
    });
    this.#held.set(record, lock);
    return lock;
  }

  /** Never rejects: a lock that cannot be released ends with its ttl. */
  async #release(whole: Buffer, token: string): Promise<void> {
    try {
      const redis = await this.#options.getRedis();
      await release(redis, whole, token);
    } catch (error) {
      this.#options.logger.warn("a lock could not be released, and ends with its ttl", { code: errorCode(error) });
    }
  }

  /** A free record. New memory is made known to the keeper before its first use. */
  #take(keyBytes: number): Place {
    const size = keyBytes + TOKEN_BYTES <= SIZES[0].textBytes ? SIZES[0] : SIZES[1];
    const free = this.#free.get(size)!;
    if (free.length === 0) {
      const table = LockTable.make(size.count, size.textBytes);
      const number = this.#tables.push(table) - 1;
      this.#tell({ type: "table", buffer: table.buffer });
      free.push(...table.records.map((record, index) => ({ record, table: number, index, size })).toReversed());
    }
    return free.pop()!;
  }

  #giveBack(place: Place): void {
    place.record.free();
    this.#free.get(place.size)!.push(place);
  }

  async #attach(): Promise<void> {
    if (this.#port) return;
    await (this.#attaching ??= this.#attachOnce().finally(() => (this.#attaching = undefined)));
  }

  async #attachOnce(): Promise<void> {
    const port = await this.#options.attach();
    this.#port = port;
    port.unref();
    port.on("message", (message: LostMessage) => this.#lost(message));
    port.once("close", () => this.#keeperGone(port));
    for (const { buffer } of this.#tables) this.#tell({ type: "table", buffer });
  }

  /** What is held needs another keeper, before its time is over. */
  #keeperGone(port: MessagePort): void {
    if (this.#port !== port) return;
    this.#port = undefined;
    if (this.#life.signal.aborted || this.#held.size === 0) return;
    this.#attach().catch((error: unknown) => {
      this.#options.logger.error("no thread extends the locks that are held", { code: errorCode(error) });
    });
  }

  #lost({ table, record }: LostMessage): void {
    this.#held.get(this.#tables[table]!.records[record]!)?.look();
  }

  #tell(message: FromOwner): void {
    this.#port?.postMessage(message);
  }
}

function pauseMs(tries: number): number {
  return randomBetween(0, Math.min(MAX_LOOK_MS, LOOK_AGAIN_MS * 2 ** tries));
}

function notAcquired(key: string, waitedMs: number, { holder, ttlLeftMs }: Acquired): LockNotAcquiredError {
  const { name, since } = holder;
  const by = `${name} holds it since ${new Date(since).toISOString()}, for ${ttlLeftMs} ms more unless it is extended`;
  return new LockNotAcquiredError(`no lock ${key} within ${Math.round(waitedMs)} ms: ${by}`, {
    outcome: "refused",
    key,
    waitedMs,
    holder: { name, since, ttlLeftMs },
  });
}
