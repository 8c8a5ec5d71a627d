import { monotonic } from "../core/clock.js";
import { traitOf } from "./commands.js";
import type { QueuedCommand } from "./ioredis.js";

const DUE_AT = Symbol("dueAt");
type Timed = QueuedCommand & { [DUE_AT]?: number };

/** When the commands of one connection are due: each carries it along, also from node to node. */
export class DueTimes {
  readonly #commandTimeoutMs: number;
  /** The newest blocking command that was written. */
  #blocker: Timed | undefined;

  constructor(commandTimeoutMs: number) {
    this.#commandTimeoutMs = commandTimeoutMs;
  }

  /** Of one that was held before, here or by another node, the time runs since then. */
  start(command: Timed): number {
    return (command[DUE_AT] ??= monotonic() + this.#commandTimeoutMs);
  }

  /** A blocking command has its own timeout besides, and what is written behind it cannot be answered before it is. */
  startWritten(command: Timed): number {
    const isBlocking = hasOwnTimeout(command);
    if (!isBlocking && !this.#blocker) return this.start(command);
    let due = command[DUE_AT] ?? monotonic() + this.#commandTimeoutMs;
    if (this.#blocker?.isSettled) this.#blocker = undefined;
    const blockedUntil = this.#blocker?.[DUE_AT] ?? 0;
    if (blockedUntil < Infinity) due = Math.max(due, blockedUntil);
    if (isBlocking) {
      due += blockingTimeoutMs(command);
      this.#blocker = command;
    }
    return (command[DUE_AT] = due);
  }
}

/** Undefined for what the library itself asks, and for what no client was given. */
export function dueAt(command: Timed): number | undefined {
  return command[DUE_AT];
}

/** Until the deadline of a command that was with a client. */
export function msLeft(command: Timed): number {
  return (command[DUE_AT] ?? Infinity) - monotonic();
}

/** For a blocking command that was redirected: its own timeout begins anew where it is written now. Or for what is sent anew. */
export function restartTime(command: Timed): void {
  delete command[DUE_AT];
}

/** It may be answered later than others, for its caller said so. */
export function hasOwnTimeout({ name }: QueuedCommand): boolean {
  const trait = traitOf(name);
  return trait === "blocking" || trait === "wait";
}

/** What another client does is what it waits for: XREAD without BLOCK does not. */
export function mayWait(command: QueuedCommand): boolean {
  return hasOwnTimeout(command) && (traitOf(command.name) === "wait" || command.extractBlockingTimeout() !== null);
}

function blockingTimeoutMs(command: QueuedCommand): number {
  if (traitOf(command.name) === "wait") return Number(command.args.at(-1)) || Infinity;
  const ms = command.extractBlockingTimeout();
  return ms === 0 ? Infinity : (ms ?? 0);
}
