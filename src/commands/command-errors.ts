import {
  CommandRefusedError,
  CommandTimeoutError,
  NeedsDedicatedError,
  NotSentError,
  ReplyLostError,
  type TimeoutReason,
} from "../core/errors.js";
import { BLOCKED_MS } from "../core/clock.js";
import type { QueuedCommand } from "./ioredis.js";
import { hasOwnTimeout } from "./traits.js";

const RESENT = Symbol("resent");
type Resent = QueuedCommand & { [RESENT]?: true };

/** The state of a connection when a command on it times out. */
interface Moment {
  /** A part of the command's reply has come. */
  readonly isArriving: boolean;
  /** Something has come since the command timeout began: for a BLPOP that is after its own timeout. */
  readonly isAnswering: boolean;
  /** Something has come after the deadline. If the loop was blocked then, this thread is late in reading. */
  readonly isBehind: boolean;
  readonly silentMs: number;
  /** How many commands are answered before this one. */
  readonly ahead: number;
  /** How long the loop had been blocked at the deadline. */
  readonly blockedMs: number;
}

/**
 * Makes the errors that the commands of one connection reject with. Each error says whether its command was sent.
 *
 * NOT_SENT or REPLY_LOST? `lost` decides. A command counts as written once its bytes were handed to the socket, which is
 * when the write coalescer flushes. `Wire.unsent` counts the commands that were not flushed yet, and `CommandQueue.lost`
 * goes by it. A read that waits for its second attempt has a mark, because it was written before: it rejects REPLY_LOST.
 */
export class CommandErrors {
  readonly #connection: string;
  readonly #commandTimeoutMs: number;

  constructor(connection: string, commandTimeoutMs: number) {
    this.#connection = connection;
    this.#commandTimeoutMs = commandTimeoutMs;
  }

  /** The error of a command whose connection is gone: REPLY_LOST if it was written, now or before, otherwise NOT_SENT. */
  lost(command: QueuedCommand, cause: unknown, isWritten = false): NotSentError | ReplyLostError {
    if (!isWritten && !wasSent(command)) return notSent(command, `${this.#connection} has no connection`, cause);
    return new ReplyLostError(
      `${nameOf(command)} was written and the connection ${this.#connection} went before its reply: it may have run`,
      { outcome: "unknown", command: command.name, cause },
    );
  }

  closed(): NotSentError {
    return new NotSentError(`${this.#connection} is closed`, { outcome: "not-sent" });
  }

  needsDedicated(command: string): NeedsDedicatedError {
    const advice = command === "quit" ? "redthread closes it" : "use withDedicated() for it";
    return new NeedsDedicatedError(
      `${command.toUpperCase()} would spoil ${this.#connection}, which others use too: ${advice}`,
      { outcome: "not-sent", command },
    );
  }

  refused(command: QueuedCommand, reason: string): CommandRefusedError {
    return new CommandRefusedError(`${nameOf(command)} is not sent on ${this.#connection}: ${reason}`, {
      outcome: "refused",
      command: command.name.toLowerCase(),
      reason,
    });
  }

  /** ioredis threw, or a listener of its diagnostics channels. */
  notWritten(command: QueuedCommand, cause: unknown): NotSentError {
    return notSent(command, `it could not be written to ${this.#connection}`, cause);
  }

  transactionLost(command: QueuedCommand): NotSentError {
    return notSent(
      command,
      `${this.#connection} lost its connection, and the WATCH or MULTI on it; UNWATCH, EXEC or DISCARD ends that, then start over`,
    );
  }

  waitsInVain(command: QueuedCommand): NotSentError {
    return notSent(command, `${this.#connection} lost the connection on which the writes that it waits for were made`);
  }

  /** A node of the Cluster rejected the command, and named another node. */
  notFollowed(command: QueuedCommand, cause: Error): NotSentError {
    return notSent(command, "its slot has moved to another node, or is moving there", cause);
  }

  /** The server did not say in time where the keys are: the keys of this command, or of a command ahead of it. */
  untold(command: QueuedCommand, cause?: unknown): NotSentError {
    return notSent(command, `${this.#connection} was not told in time where the keys of a command are`, cause);
  }

  timedOut(command: QueuedCommand, moment: Moment): CommandTimeoutError {
    const commandTimeoutMs = this.#commandTimeoutMs;
    const limit = hasOwnTimeout(command) ? `its own timeout and ${commandTimeoutMs}` : commandTimeoutMs;
    const { silentMs, ahead, blockedMs } = moment;
    const [reason, why] = reasonOf(moment);
    return new CommandTimeoutError(
      `no reply to ${nameOf(command)} on ${this.#connection} within ${limit} ms (${why}): it may still run`,
      { outcome: "unknown", command: command.name, commandTimeoutMs, reason, silentMs, ahead, blockedMs },
    );
  }
}

/** Marks a command that was written and is going to be written again. It is not written a third time. */
export function markResent(command: Resent): void {
  command[RESENT] = true;
}

/** Whether the command was written to a connection that is gone. */
export function wasSent(command: Resent): boolean {
  return command[RESENT] === true;
}

/** The holder of the lease has given up, so that nobody would take what the command waits for. */
export function notBegun(command: QueuedCommand, cause: unknown): NotSentError {
  return notSent(command, "the signal of its lease is aborted", cause);
}

function reasonOf({ isArriving, isAnswering, isBehind, silentMs, ahead, blockedMs }: Moment): [TimeoutReason, string] {
  if (isArriving) return ["reply-arriving", "only a part of it has come"];
  if (isBehind && blockedMs > BLOCKED_MS) {
    return ["loop-blocked", `this thread's loop was blocked for ${blockedMs} ms`];
  }
  if (isAnswering && ahead > 0) return ["queued", `${ahead} command${ahead > 1 ? "s are" : " is"} ahead of it`];
  return ["server-silent", `the server said nothing for ${silentMs} ms`];
}

function notSent(command: QueuedCommand, why: string, cause?: unknown): NotSentError {
  return new NotSentError(`${nameOf(command)} was not sent: ${why}`, {
    outcome: "not-sent",
    command: command.name,
    cause,
  });
}

function nameOf(command: QueuedCommand): string {
  return command.name.toUpperCase();
}
