import {
  CommandRefusedError,
  CommandTimeoutError,
  NeedsDedicatedError,
  NotSentError,
  ReplyLostError,
  type TimeoutReason,
} from "../core/errors.js";
import { BLOCKED_MS } from "../core/clock.js";
import { hasOwnTimeout } from "./due.js";
import type { QueuedCommand } from "./ioredis.js";
import { wasSent } from "./resend.js";

/** How things stand when a command is given up. */
interface Moment {
  /** A part of its reply has come. */
  readonly isArriving: boolean;
  /** Something has come since its command timeout began, which is after the own timeout of a BLPOP. */
  readonly isAnswering: boolean;
  /** Something has come since it was due: where the loop was blocked then, it is behind with reading. */
  readonly isBehind: boolean;
  readonly silentMs: number;
  /** Commands whose replies come before its own. */
  readonly ahead: number;
  /** The loop, when it was due. */
  readonly blockedMs: number;
}

/** What the commands of one connection reject with: each says whether it left this process. */
export class CommandErrors {
  readonly #connection: string;
  readonly #commandTimeoutMs: number;

  constructor(connection: string, commandTimeoutMs: number) {
    this.#connection = connection;
    this.#commandTimeoutMs = commandTimeoutMs;
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

  notSent(command: QueuedCommand, cause: unknown): NotSentError {
    return notSent(command, `${this.#connection} has no connection`, cause);
  }

  /** ioredis, or what listens to it, threw. */
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
    return notSent(command, `${this.#connection} lost the connection on which what it waits for was done`);
  }

  /** A node of the Cluster has turned it away, and named another one. */
  notFollowed(command: QueuedCommand, cause: Error): NotSentError {
    return notSent(command, "its slot has moved to another node, or is on its way there", cause);
  }

  /** Where keys are was asked and not answered in time: those of this command, or of one that it has to come after. */
  untold(command: QueuedCommand, cause?: unknown): NotSentError {
    return notSent(command, `${this.#connection} was not told in time where the keys of a command are`, cause);
  }

  replyLost(command: QueuedCommand, cause: unknown): ReplyLostError {
    return new ReplyLostError(
      `${nameOf(command)} was written and the connection ${this.#connection} went before its reply: it may have run`,
      { outcome: "unknown", command: command.name, cause },
    );
  }

  /** Of a held command, which may have been written to the connection before. */
  unfulfilled(command: QueuedCommand, cause: unknown): Error {
    return wasSent(command) ? this.replyLost(command, cause) : this.notSent(command, cause);
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

function reasonOf({ isArriving, isAnswering, isBehind, silentMs, ahead, blockedMs }: Moment): [TimeoutReason, string] {
  if (isArriving) return ["reply-arriving", "only a part of it has come"];
  if (isBehind && blockedMs > BLOCKED_MS) {
    return ["loop-blocked", `this thread's loop was blocked for ${blockedMs} ms`];
  }
  if (isAnswering && ahead > 0) return ["queued", `${ahead} command${ahead > 1 ? "s are" : " is"} ahead of it`];
  return ["server-silent", `the server said nothing for ${silentMs} ms`];
}

/** Its holder has given up, and nobody would take what it waits for. */
export function notBegun(command: QueuedCommand, cause: unknown): NotSentError {
  return notSent(command, "the signal of its lease is aborted", cause);
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
