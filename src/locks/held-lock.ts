import { threadId } from "node:worker_threads";
import { lockChannel, type LockMessage } from "../core/channels.js";
import { sharedClock } from "../core/clock.js";
import { LockLostError, type LockLoss } from "../core/errors.js";
import { isAhead } from "../core/shared-time.js";
import type { LockRecord } from "./lock-table.js";

/** A lock that is held, in the hands of its user: with a `limit`, one of several. */
export interface SharedLock extends AsyncDisposable {
  /** Whether it is held at this moment; also right in a loop that computes. */
  readonly isHeld: boolean;
  /** Aborts with REDTHREAD_LOCK_LOST when the lock is lost. A loop that computes cannot hear it: use `assertHeld()` there. */
  readonly signal: AbortSignal;
  /**
   * Cheap: no I/O. Call it before each step that relies on the lock.
   * @throws REDTHREAD_LOCK_LOST
   */
  assertHeld(): void;
  /**
   * Releases it; idempotent. If Redis cannot be reached, the lock ends with its ttl.
   * @throws REDTHREAD_LOCK_LOST if it was not held until now
   */
  release(): Promise<void>;
}

/** A lock that nobody else holds. */
export interface Lock extends SharedLock {
  /** Grows with each holder of the key. Give it to the store that you write to, which refuses a smaller number. */
  readonly fence: number;
}

export interface HeldLockOptions {
  readonly key: string;
  readonly record: LockRecord;
  /** Of this use of the record, with the state HELD. */
  readonly stamp: number;
  readonly fence: number | undefined;
  readonly waitMs: number;
  /** Gives it to another caller of this thread, if one waits and may have it. */
  readonly passOn: () => boolean;
  /** Frees it on the server, and gives the record back. Never rejects. `isGone`: nothing has to be freed. */
  readonly end: (isGone: boolean) => Promise<void>;
  /** `isFound`: the owner has found it, and not the keeper. */
  readonly onLost: (loss: LockLostError, isFound: boolean) => void;
}

export class HeldLock implements SharedLock {
  readonly fence: number | undefined;
  readonly #options: HeldLockOptions;
  readonly #acquiredAt = sharedClock();
  #releasedAt = this.#acquiredAt;
  #loss: LockLostError | undefined;
  #controller: AbortController | undefined;
  #ending: Promise<LockLostError | undefined> | undefined;

  constructor(options: HeldLockOptions) {
    this.#options = options;
    this.fence = options.fence;
    tell("acquired", { waitMs: options.waitMs });
  }

  get isHeld(): boolean {
    const { record, stamp } = this.#options;
    return record.isHeld(stamp, sharedClock());
  }

  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      const loss = this.look();
      if (loss) this.#controller.abort(loss);
    }
    return this.#controller.signal;
  }

  assertHeld(): void {
    if (this.isHeld) return;
    throw this.look() ?? this.#lost("released");
  }

  /** The loss, if it is lost. What was found once stays. */
  look(): LockLostError | undefined {
    const { record, stamp } = this.#options;
    if (this.#loss || this.#ending || record.isHeld(stamp, sharedClock())) return this.#loss;
    return this.#find();
  }

  /** Looks whether it is lost. If not: after so many ms it is over if it is not extended. Infinity if it is lost or being released. */
  untilLookMs(): number {
    if (this.look() || this.#ending) return Infinity;
    return Math.max((this.#options.record.heldUntil - sharedClock()) | 0, 0) + 1;
  }

  #find(): LockLostError {
    const { record, stamp } = this.#options;
    // Its time is over, or the keeper has found the loss. The first look that sees it makes it final.
    const isFound = record.lose(stamp, record.isOverheld(sharedClock()) ? "maxHold" : "expired");
    return this.#fail(this.#lost(record.loss), isFound);
  }

  /** Its thread closes: for a holder that is not done, it is lost. Never rejects. */
  async giveUp(): Promise<void> {
    const { record, stamp, end } = this.#options;
    if (this.#ending || this.look() || !record.beginRelease(stamp)) return void (await this.end());
    const loss = this.#lost("shutdown");
    this.#ending = end(false).then(() => loss);
    this.#fail(loss, false);
    await this.#ending;
  }

  #fail(loss: LockLostError, isFound: boolean): LockLostError {
    this.#loss = loss;
    this.#options.onLost(loss, isFound); // first: a listener may release the lock
    this.#controller?.abort(loss);
    tell("lost", { reason: loss.reason, heldMs: loss.heldMs });
    return loss;
  }

  async release(): Promise<void> {
    const loss = await this.end();
    if (loss) throw loss;
  }

  /** As `release`, but a loss is the result. */
  end(): Promise<LockLostError | undefined> {
    this.look(); // its listeners may call this, too
    return (this.#ending ??= this.#end());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }

  async #end(): Promise<LockLostError | undefined> {
    const { record, stamp, passOn, end } = this.#options;
    if (!this.#loss && passOn()) {
      this.#releasedAt = sharedClock();
      await Promise.resolve(); // a listener that calls `end` then finds it under way
      tell("released", { heldMs: (this.#releasedAt - this.#acquiredAt) | 0 });
      return undefined;
    }
    if (!this.#loss && !record.beginRelease(stamp)) {
      await Promise.resolve(); // a listener that calls `end` then finds it under way
      this.#find(); // lost since the look
    }
    this.#releasedAt = sharedClock();
    const heldMs = (this.#releasedAt - this.#acquiredAt) | 0;
    const ended = end(this.#loss?.reason === "gone");
    if (this.#loss) return this.#loss; // what is lost need not be waited for: Redis may be away
    await ended;
    tell("released", { heldMs });
    return undefined;
  }

  #lost(reason: LockLoss): LockLostError {
    const { key, record } = this.#options;
    const now = sharedClock();
    const until = reason === "released" ? this.#releasedAt : record.heldUntil;
    const end = reason === "gone" || !isAhead(until, now) ? until : now;
    // A key that is gone was there for certain when the latest extension was sent.
    const sureMs = (end - this.#acquiredAt - (reason === "gone" ? record.ttlMs : 0)) | 0;
    return new LockLostError(`the lock ${key} ${WHY[reason]}`, { key, reason, heldMs: Math.max(sureMs, 0) });
  }
}

function tell(event: LockMessage["event"], told: Omit<LockMessage, "event" | "threadId">): void {
  if (lockChannel.hasSubscribers) lockChannel.publish({ event, threadId, ...told });
}

const WHY: Readonly<Record<LockLoss, string>> = {
  expired: "was lost: it could not be extended in time, and may be another holder's",
  gone: "was lost: its key was deleted, or is another holder's",
  maxHold: "was lost: it was held for maxHoldMs",
  clock: "was lost: this machine was suspended or its clock was set, and the lock may be another holder's",
  released: "was released by its holder",
  shutdown: "was released by the shutdown, before its holder was done",
};
