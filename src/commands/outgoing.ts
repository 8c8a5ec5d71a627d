import type { CommandStream, QueuedCommand } from "./ioredis.js";

/** The commands of a pipeline: they go to their connection as a whole, or not at all. */
export class PipedCommands {
  readonly commands: QueuedCommand[] = [];
  /** ioredis writes to it once it was given all of them. */
  stream: CommandStream;

  add(command: QueuedCommand, stream: NonNullable<CommandStream>): void {
    this.commands.push(command);
    this.stream = stream;
  }
}

/** What a handle sends. */
export type Outgoing = QueuedCommand | PipedCommands;

export function commandsOf(outgoing: Outgoing): readonly QueuedCommand[] {
  return outgoing instanceof PipedCommands ? outgoing.commands : [outgoing];
}

/** Rejects it with an error for each command. Gives what the sender of a command goes on with. */
export function turnAway(outgoing: Outgoing, errorFor: (command: QueuedCommand) => Error): unknown {
  if (outgoing instanceof PipedCommands) {
    for (const command of outgoing.commands) command.reject(errorFor(command));
    return undefined;
  }
  outgoing.reject(errorFor(outgoing));
  return outgoing.promise;
}
