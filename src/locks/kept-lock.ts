import type { LockLoss } from "../core/errors.js";
import type { LockRecord } from "./lock-table.js";

/** A lock that another client acquires and releases, while the keeper extends it. */
export interface KeptLease {
  /** "fetched": which job it is, is not known before the reply is read, and the key is the list of active jobs. */
  readonly kind: "job" | "fetched";
  readonly key: string;
  readonly token: string;
  readonly ttlMs: number;
  /** The keeper extends it no more. */
  readonly onLost?: (loss: LockLoss) => void;
}

/** Keeps locks of another client. */
export interface LockKeeping {
  /** Undefined if nothing is kept: the lock's texts are too long, or its ttl too short, or this thread closes its locks. */
  keep(lease: KeptLease): KeptLock | undefined;
  warn(message: string): void;
}

export interface KeptLockOptions {
  readonly record: LockRecord;
  readonly stamp: number;
  readonly onLost: ((loss: LockLoss) => void) | undefined;
  /** Gives the record back. */
  readonly onEnd: () => void;
}

export class KeptLock {
  readonly #options: KeptLockOptions;
  readonly #keptSince: number;
  #isEnded = false;

  constructor(options: KeptLockOptions) {
    this.#options = options;
    this.#keptSince = options.record.heldUntil;
  }

  /** Whether the keeper has extended it. Then it is on the keeper's Redis. */
  get isExtended(): boolean {
    return !this.#isEnded && this.#options.record.heldUntil !== this.#keptSince;
  }

  /** Called when the keeper has found a loss of this record. */
  look(): void {
    const { record, stamp, onLost } = this.#options;
    if (this.#isEnded || record.stamp === stamp) return; // the loss was of an earlier use of the record
    onLost?.(record.loss);
    this.giveUp();
  }

  /** The keeper extends it no more. Sends nothing. */
  giveUp(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#options.onEnd();
  }
}
