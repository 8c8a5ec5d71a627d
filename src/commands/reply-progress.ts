import { BLOCKED_MS, type Expiry, monotonic } from "../core/clock.js";

/** A reply counts as arriving until nothing of it came for this long. */
const GAP_MS = 200;

/**
 * The reply that is being received. A large one that is still arriving when its command's deadline comes is given more
 * time as long as it keeps arriving: at most one further deadline of this loop's unblocked time.
 */
export class ReplyProgress {
  readonly #graceMs: number;
  #command: unknown;
  #receivedAt = -Infinity;
  #until = Infinity;
  #limit: number | undefined;
  #gapMs = GAP_MS;

  constructor(graceMs: number) {
    this.#graceMs = graceMs;
  }

  /** Told after each chunk has been parsed; `first` is the command whose reply is the next to be complete. */
  received(first: unknown): void {
    if (first === this.#command) {
      this.#receivedAt = monotonic(); // the chunk completed nothing: it was a part of this reply
      return;
    }
    this.#command = first;
    this.#receivedAt = -Infinity;
    this.#until = Infinity;
    this.#limit = undefined;
  }

  /** Whether a part of this command's reply has come. */
  isOf(command: unknown): boolean {
    return command === this.#command && this.#receivedAt !== -Infinity;
  }

  /**
   * Until when to wait for the reply to this command, which was due at `dueAt`; -Infinity if it is not arriving, or no
   * longer. A loop that was blocked at that time has much to catch up with, perhaps on a busy machine: there a gap says
   * nothing.
   */
  until(command: unknown, dueAt: number, { firedAt }: Expiry): number {
    if (!this.isOf(command)) return -Infinity;
    if (this.#limit === undefined) {
      this.#limit = firedAt + this.#graceMs;
      this.#gapMs = firedAt - dueAt > BLOCKED_MS ? Infinity : GAP_MS;
    }
    const blockedMs = firedAt - this.#until;
    if (blockedMs > BLOCKED_MS) this.#limit += blockedMs;
    this.#until = Math.min(this.#receivedAt + this.#gapMs, this.#limit);
    return this.#until > monotonic() ? this.#until : -Infinity;
  }
}
