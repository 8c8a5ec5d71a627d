import { BLOCKED_MS, Deadlines, type Expiry, monotonic } from "../core/clock.js";
import type { CommandErrors } from "./command-errors.js";
import type { Handle } from "./handle.js";
import type { QueuedCommand } from "./ioredis.js";
import { blockingTimeoutMs, hasOwnTimeout } from "./traits.js";

const DUE_AT = Symbol("dueAt");
type Timed = QueuedCommand & { [DUE_AT]?: number };

/** When the command is due. Undefined for a question of the library itself, and before a client was given the command. */
export function dueAt(command: Timed): number | undefined {
  return command[DUE_AT];
}

/** Starts the time of a command, unless it runs already because the command was held before, here or by another node. */
export function startTime(command: Timed, commandTimeoutMs: number): number {
  return (command[DUE_AT] ??= monotonic() + commandTimeoutMs);
}

/** Milliseconds until the deadline of a command that was with a client. */
export function msLeft(command: Timed): number {
  return (command[DUE_AT] ?? Infinity) - monotonic();
}

/** The command's time begins anew when it is sent again. A redirected blocking command needs it for its own timeout. */
export function restartTime(command: Timed): void {
  delete command[DUE_AT];
}

export interface CommandDeadlinesOptions {
  readonly commandTimeoutMs: number;
  readonly errors: CommandErrors;
  /** When something was received last, on the monotonic clock. */
  readonly receivedAt: () => number;
  /** A written command had no reply by its deadline: the peer may be gone. */
  readonly onTimeout: () => void;
}

/** The deadlines of the commands that were written to one connection. */
export class CommandDeadlines {
  readonly #handle: Handle;
  readonly #options: CommandDeadlinesOptions;
  readonly #timer: Deadlines;
  readonly #progress: ReplyProgress;
  /** The newest blocking command that was written. */
  #blocker: Timed | undefined;

  constructor(handle: Handle, options: CommandDeadlinesOptions) {
    this.#handle = handle;
    this.#options = options;
    const { commandTimeoutMs } = options;
    this.#timer = new Deadlines({
      expire: (expiry) => this.#expire(expiry),
      graceMs: commandTimeoutMs,
      isRef: false, // the socket keeps the loop alive while a reply is owed
    });
    this.#progress = new ReplyProgress(commandTimeoutMs);
  }

  /** The command is about to be written. Commands behind a blocking one cannot be answered before it is. */
  start(command: Timed): void {
    const { commandTimeoutMs } = this.#options;
    const isBlocking = hasOwnTimeout(command);
    if (!isBlocking && !this.#blocker) return this.#timer.arm(startTime(command, commandTimeoutMs));
    let due = command[DUE_AT] ?? monotonic() + commandTimeoutMs;
    if (this.#blocker?.isSettled) this.#blocker = undefined;
    const blockedUntil = this.#blocker?.[DUE_AT] ?? 0;
    if (blockedUntil < Infinity) due = Math.max(due, blockedUntil);
    if (isBlocking) {
      due += blockingTimeoutMs(command);
      this.#blocker = command;
    }
    this.#timer.arm((command[DUE_AT] = due));
  }

  /** A chunk was received, and parsed. */
  received(): void {
    this.#progress.received(this.#handle.commandQueue.peekFront()?.command);
  }

  stop(): void {
    this.#timer.stop();
  }

  /** Rejects the commands that are due; gives when the next one is. */
  #expire(expiry: Expiry): number {
    const { commandTimeoutMs, errors, receivedAt, onTimeout } = this.#options;
    const { commandQueue } = this.#handle;
    let next = Infinity;
    let hasTimedOut = false;
    for (let i = 0; i < commandQueue.length; i++) {
      const command = commandQueue.peekAt(i)!.command as Timed;
      if (command.isSettled) continue;
      const due = command[DUE_AT] ?? Infinity;
      const until = due > expiry.cutoff ? due : this.#progress.until(command, due, expiry);
      if (until > expiry.cutoff) {
        next = Math.min(next, until);
        continue;
      }
      const at = receivedAt();
      const moment = {
        isArriving: this.#progress.isOf(command),
        isAnswering: at > due - commandTimeoutMs,
        isBehind: at > due,
        silentMs: Math.round(monotonic() - at),
        ahead: i,
        blockedMs: Math.max(Math.round(expiry.firedAt - due), 0),
      };
      command.reject(errors.timedOut(command, moment));
      hasTimedOut = true;
    }
    if (hasTimedOut) onTimeout();
    return next;
  }
}

/** A reply counts as arriving until nothing of it came for this long. */
const GAP_MS = 200;

/**
 * The reply that is being received. A large reply that is still arriving at its command's deadline is given more time as
 * long as it keeps arriving: at most one further deadline, not counting the time for which this thread's loop is blocked.
 */
class ReplyProgress {
  readonly #graceMs: number;
  #command: unknown;
  #receivedAt = -Infinity;
  #until = Infinity;
  #limit: number | undefined;
  #gapMs = GAP_MS;

  constructor(graceMs: number) {
    this.#graceMs = graceMs;
  }

  /** Called after each chunk was parsed; `first` is the command whose reply is the next to be complete. */
  received(first: unknown): void {
    if (first === this.#command) {
      this.#receivedAt = monotonic(); // the chunk completed nothing, so it was a part of this reply
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
   * Until when to wait for the reply to this command, which was due at `due`; -Infinity if it is not arriving any more. If
   * the loop was blocked at that time, it has much to read: a gap says nothing then.
   */
  until(command: unknown, due: number, { firedAt }: Expiry): number {
    if (!this.isOf(command)) return -Infinity;
    if (this.#limit === undefined) {
      this.#limit = firedAt + this.#graceMs;
      this.#gapMs = firedAt - due > BLOCKED_MS ? Infinity : GAP_MS;
    }
    const blockedMs = firedAt - this.#until;
    if (blockedMs > BLOCKED_MS) this.#limit += blockedMs;
    this.#until = Math.min(this.#receivedAt + this.#gapMs, this.#limit);
    return this.#until > monotonic() ? this.#until : -Infinity;
  }
}
