import { traitOf } from "./commands.js";
import { type CommandStream, isInTable, isReadOnly, type QueuedCommand } from "./ioredis.js";

const RESENT = Symbol("resent");
type Resent = QueuedCommand & { [RESENT]?: true };

/**
 * Whether a command that was written and not answered may be written once more: a read by ioredis' own table, neither
 * blocking nor in a pipeline or transaction, whose other half may have run, and for the first time.
 */
export function isResendable(command: Resent, stream: CommandStream): boolean {
  if (stream !== undefined || command.isSettled || command[RESENT]) return false;
  return traitOf(command.name) === "plain" && isReadOnly(command.name);
}

/** It is going to be written again: never a third time, and whatever comes, it was sent. */
export function markResent(command: Resent): void {
  command[RESENT] = true;
}

export function wasSent(command: Resent): boolean {
  return command[RESENT] === true;
}

/** Whether WAIT would speak of it: EXEC, or what is no read and has keys, as far as ioredis knows the command. */
export function canWrite(command: QueuedCommand): boolean {
  const trait = traitOf(command.name);
  if (trait === "exec") return true;
  if ((trait !== "plain" && trait !== "blocking") || isReadOnly(command.name)) return false;
  return command.getSlot() !== null || !isInTable(command.name);
}
