import type { QueuedCommand } from "./ioredis.js";
import type { CommandTrait } from "./traits.js";

/** Called with each command that is about to be written to the connection. */
export type Note = (connection: object, command: QueuedCommand, trait: CommandTrait) => void;

/** What near caches do with the commands of this thread. */
export interface OwnWrites {
  /** Calls all of `notes`. Undefined without any. */
  note?: Note | undefined;
  /** One of each copy of this package that has a near cache. */
  notes?: Set<Note>;
  /** No client is opened before: a near cache is being loaded. */
  ready?: Promise<unknown>;
}

const KEY = Symbol.for("redthread.own-writes");
/** On globalThis, because a second copy of this package in the thread writes as well. */
export const ownWrites: OwnWrites = ((globalThis as { [KEY]?: OwnWrites })[KEY] ??= {});
