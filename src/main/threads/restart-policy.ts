import { monotonic, randomBetween } from "../../core/clock.js";

/** A thread that lived for less died quickly: the next replacement comes later each time. */
const SETTLED_MS = 10_000;
const FIRST_DELAY_MS = 100;
const MAX_DELAY_MS = 30_000;

/** When a thread that ended is replaced: at once after a long life, and after growing delays while threads die quickly. */
export class RestartPolicy {
  readonly #startMissing: () => void;
  readonly #restarts = new Set<NodeJS.Timeout>();
  #quickDeaths = 0;

  constructor(startMissing: () => void) {
    this.#startMissing = startMissing;
  }

  get isRestarting(): boolean {
    return this.#restarts.size > 0;
  }

  /** The wait before the next start while threads die quickly, with jitter. */
  get delayMs(): number {
    return Math.min(FIRST_DELAY_MS * 2 ** this.#quickDeaths, MAX_DELAY_MS) * randomBetween(0.5, 1);
  }

  /** Counts a thread that could not start. Returns the wait before the next try. */
  startFailed(): number {
    const { delayMs } = this;
    this.#quickDeaths++;
    return delayMs;
  }

  /** Counts a thread that died although nobody had asked it to close. Returns the wait before its replacement. */
  died(startedAt: number): number {
    if (monotonic() - startedAt >= SETTLED_MS) this.#quickDeaths = 0;
    const delayMs = this.#quickDeaths === 0 ? 0 : this.delayMs;
    this.#quickDeaths++;
    return delayMs;
  }

  restartIn(delayMs: number): void {
    const timer = setTimeout(() => {
      this.#restarts.delete(timer);
      this.#startMissing();
    }, delayMs);
    this.#restarts.add(timer);
  }

  cancel(): void {
    for (const timer of this.#restarts) clearTimeout(timer);
    this.#restarts.clear();
  }
}
