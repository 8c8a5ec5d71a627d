import type { Command as IoredisCommand, Redis as Ioredis } from "ioredis";
import { requirePackage } from "../core/packages.js";

export type { ChainableCommander, RedisCommander, RedisOptions, Result } from "ioredis";

const ioredis = requirePackage<typeof import("ioredis")>("ioredis");

export const { Command, Redis } = ioredis;

/** An ioredis client as users hold it. This is an interface, so that users' declarations can name it. */
export interface RedisHandle extends Ioredis {}
export type QueuedCommand = IoredisCommand;
export type CommandStream = Parameters<RedisHandle["sendCommand"]>[1];

/** The callback that most functions of ioredis take beside giving a promise. */
export type Callback<T = unknown> = (error?: Error | null, result?: T) => void;

/** Gives the promise, and calls the callback if there is one: the promise's rejection then counts as handled. */
export function withCallback<T>(promise: Promise<T>, callback?: Callback<T>): Promise<T> {
  if (callback) {
    promise.then(
      (result) => callback(null, result),
      (error: Error) => callback(error),
    );
  }
  return promise;
}

interface CommandTable {
  exists(name: string, options: { caseInsensitive: boolean }): boolean;
  hasFlag(name: string, flag: "readonly", options: { nameCaseInsensitive: boolean }): boolean;
}

let table: CommandTable | undefined;

const reads = new Map<string, boolean>();
/** A service that passes outside input to `call()` must not be able to grow this table without end. */
const MAX_SPELLINGS = 1_000;

/** Whether ioredis' own command table says that the command only reads. A known spelling costs one lookup. */
export function isReadOnly(name: string): boolean {
  const known = reads.get(name);
  if (known !== undefined) return known;
  const isRead = isInTable(name) && table!.hasFlag(name, "readonly", { nameCaseInsensitive: true });
  if (reads.size < MAX_SPELLINGS) reads.set(name, isRead);
  return isRead;
}

/** Whether ioredis knows the command, and so where its keys are. */
export function isInTable(name: string): boolean {
  // ioredis does not export its table, so it is required from where ioredis finds it.
  table ??= requirePackage<CommandTable>("@ioredis/commands", "ioredis");
  return table.exists(name, { caseInsensitive: true });
}
