import { textFingerprint } from "../config/endpoint.js";
import { isTold } from "../core/log.js";
import { sharedClock } from "../core/time.js";

const FAILURES = 0;
const SINCE = 1;
const REASONS = 2;

export interface OutageNumbers {
  /** Attempts to connect that failed so far, of all threads. */
  readonly attempts: number;
  readonly awayMs: number;
}

/**
 * What the log tells of a server that cannot be reached: one line for the process, however many threads and pools try. It
 * counts in memory that all threads share; all zeros is its beginning.
 */
export class Outage {
  static readonly CELLS = 3;
  readonly #cells: Int32Array<SharedArrayBuffer>;

  constructor(cells: Int32Array<SharedArrayBuffer>) {
    this.#cells = cells;
  }

  /** The numbers for a line, which is due at a new reason, and else more and more seldom. */
  failed(reason: string, tookMs: number): OutageNumbers | undefined {
    const attempts = Atomics.add(this.#cells, FAILURES, 1) + 1;
    if (attempts === 1) Atomics.store(this.#cells, SINCE, (sharedClock() - tookMs) | 0);
    // Reasons that alternate, as those of several addresses do, are told once each.
    const bit = 1 << (textFingerprint(reason) >>> 27);
    const isKnown = (Atomics.or(this.#cells, REASONS, bit) & bit) !== 0;
    return isKnown && !isTold(attempts) ? undefined : this.#numbers(attempts);
  }

  /** Somebody is connected: the numbers for a line, if there was an outage. */
  end(): OutageNumbers | undefined {
    const attempts = Atomics.exchange(this.#cells, FAILURES, 0);
    Atomics.store(this.#cells, REASONS, 0);
    return attempts === 0 ? undefined : this.#numbers(attempts);
  }

  #numbers(attempts: number): OutageNumbers {
    return { attempts, awayMs: (sharedClock() - Atomics.load(this.#cells, SINCE)) | 0 };
  }
}
