/** A timer this late means that the loop was blocked, not that the peer was slow. */
const LAG_MS = 20;
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface DeadlineOptions {
  /** Rejects what was due at `now`; returns when the next one is due, Infinity if nothing is left. */
  readonly expire: (now: number) => number;
  /** The most that is granted after a blocked loop, in ms. */
  readonly graceMs: number;
  readonly now: () => number;
}

/**
 * One timer for all the deadlines of a connection. A timer that fires in time lets one poll phase run before it
 * rejects; one that fires late (this thread was blocked, the replies may lie in the socket) grants
 * min(lateness, graceMs) once more. Without both, a busy thread rejects commands that were answered long ago.
 */
export class Deadlines {
  readonly #options: DeadlineOptions;
  #timer: NodeJS.Timeout | undefined;
  #dueAt = Infinity;

  constructor(options: DeadlineOptions) {
    this.#options = options;
  }

  /** Makes sure that the timer fires at `dueAt` (ms of the clock) or before. */
  arm(dueAt: number): void {
    if (dueAt >= this.#dueAt) return;
    this.#set(dueAt, () => this.#fired(dueAt));
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#dueAt = Infinity;
  }

  #set(dueAt: number, onDue: () => void): void {
    clearTimeout(this.#timer);
    this.#dueAt = dueAt;
    const ms = Math.min(Math.max(dueAt - this.#options.now(), 0), MAX_TIMER_MS);
    // The socket keeps the loop alive while a reply is owed; this timer never should.
    this.#timer = setTimeout(onDue, Math.ceil(ms)).unref();
  }

  #fired(dueAt: number): void {
    const now = this.#options.now();
    const lateMs = now - dueAt;
    if (lateMs < 0) this.#set(dueAt, () => this.#fired(dueAt));
    else if (lateMs <= LAG_MS) this.#expireAfterPoll(now);
    else {
      const until = now + Math.min(lateMs, this.#options.graceMs);
      this.#set(until, () => this.#expireAfterPoll(until));
    }
  }

  #expireAfterPoll(cutoff: number): void {
    setImmediate(() => {
      this.#dueAt = Infinity;
      this.arm(this.#options.expire(cutoff));
    });
  }
}
