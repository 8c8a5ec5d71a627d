import type { RedisHandle } from "../commands/ioredis.js";
import { monotonic, randomBetween, sharedClock } from "../core/clock.js";
import type { Outcome } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { abortable, sleep } from "../core/waiting.js";
import type { KeeperLink } from "./keeper-link.js";
import { ConnectionFilters } from "./lock-nodes.js";
import { acquire, type Acquired, acquireShared, release } from "./lock-scripts.js";
import { type Lease, SHARED } from "./lock-table.js";
import type { Place, RecordPool } from "./record-pool.js";

export interface LockRequestsOptions {
  readonly getRedis: (signal?: AbortSignal) => Promise<RedisHandle>;
  /** What others are told of a holder. */
  readonly holder: string;
  readonly logger: Logger;
}

/** The longest pause before an acquire is sent again whose reply was lost. */
const AGAIN_MS = 50;

/** Sends the acquires and releases of one thread's locks, and what has to follow if their outcome is not known. */
export class LockRequests {
  readonly #options: LockRequestsOptions;
  readonly #keeper: KeeperLink;
  readonly #records: RecordPool;
  readonly #life: AbortSignal;
  readonly #connections = new ConnectionFilters();
  /** The releases that nothing else waits for. */
  readonly #releasing = new Set<Promise<unknown>>();

  /** `life` aborts when this thread takes no more locks. */
  constructor(options: LockRequestsOptions, keeper: KeeperLink, records: RecordPool, life: AbortSignal) {
    this.#options = options;
    this.#keeper = keeper;
    this.#records = records;
    this.#life = life;
  }

  /** Sends the acquire, and once more with the same token if its reply is lost: the first one may have acquired the lock. */
  async acquire(
    place: Place,
    lease: Lease,
    limit: number,
    deadline: number,
    signal: AbortSignal,
  ): Promise<[Acquired, stamp: number, sentAt: number]> {
    const { getRedis } = this.#options;
    const { record } = place;
    let stamp: number | undefined;
    let isInDoubt = false;
    let asking: Promise<unknown> = Promise.resolve();
    try {
      for (;;) {
        const redis = await getRedis(signal);
        const connection = lease.replicas > 0 ? "" : this.#connections.of(redis, lease.key); // no command of it goes there
        const sentAt = sharedClock();
        if (stamp === undefined) stamp = record.begin(lease, connection, sentAt);
        else record.sentAgain(stamp, sentAt);
        this.begun(place);
        const answer = this.#ask(redis, lease, limit);
        asking = answer;
        try {
          // The reply comes soon, and an abort by `close` can be told then: a race would cost more than the lock.
          const acquired = await (signal === this.#life ? answer : abortable(answer, signal));
          signal.throwIfAborted();
          return [acquired, stamp, sentAt];
        } catch (error) {
          isInDoubt ||= signal.aborted || (error as { outcome?: Outcome }).outcome === "unknown";
          if (!isInDoubt || signal.aborted || monotonic() >= deadline) throw error;
        }
        await sleep(randomBetween(0, AGAIN_MS), signal);
      }
    } catch (error) {
      if (isInDoubt) this.#freeLater(place, asking, lease);
      throw error;
    }
  }

  /** The keeper has a connection for the locks that replicas have to acknowledge. */
  #ask(redis: RedisHandle, lease: Lease, limit: number): Promise<Acquired> {
    const { holder } = this.#options;
    const { kind, key, token, ttlMs, replicas } = lease;
    if (replicas > 0) return this.#keeper.acquire({ kind, key, token, ttlMs, replicas, limit, holder });
    if (kind === SHARED) return acquireShared(redis, key, token, ttlMs, limit);
    return acquire(redis, key, token, ttlMs, holder);
  }

  /** Until the release is sent the keeper knows the lock, and releases it if this thread ends. */
  #freeLater(place: Place, asking: Promise<unknown>, lease: Lease): void {
    place.isInDoubt = true;
    const free = async (): Promise<void> => {
      await this.release(lease);
      this.#records.giveBack(place);
    };
    this.later(asking.then(free, free));
  }

  /** Never rejects. */
  later(released: Promise<unknown>): void {
    const done = released.finally(() => this.#releasing.delete(done));
    this.#releasing.add(done);
  }

  /** Never rejects: a lock that cannot be released ends with its ttl. */
  async release({ kind, key, token }: Lease): Promise<void> {
    try {
      const redis = await this.#options.getRedis();
      await release(redis, kind, key, token);
    } catch (error) {
      this.#options.logger.warn("a lock could not be released, and ends with its ttl", { code: errorCode(error) });
    }
  }

  /** A lock was begun. */
  begun(place: Place): void {
    if (this.#records.wake(place)) this.#keeper.tell({ type: "wake" });
  }

  releaseLater(lease: Lease): void {
    this.later(this.release(lease));
  }

  /** Resolves when the releases are done that nothing else waits for. */
  async settled(): Promise<void> {
    await Promise.all(this.#releasing);
  }
}
