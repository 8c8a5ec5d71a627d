import type { QueuedCommand } from "./ioredis.js";
import type { CommandTrait } from "./traits.js";

/** What a near cache does with the commands of this thread. */
export interface OwnWrites {
  /** Called with each command that is about to be written to the connection of `queue`. */
  note?: (queue: object, command: QueuedCommand, trait: CommandTrait) => void;
  /** No client is opened before: a near cache is being loaded. */
  ready?: Promise<unknown>;
}

const KEY = Symbol.for("redthread.own-writes");
/** On globalThis, because a second copy of this package in the thread writes as well. */
export const ownWrites: OwnWrites = ((globalThis as { [KEY]?: OwnWrites })[KEY] ??= {});
