import type { Command as IoredisCommand, Redis as Ioredis } from "ioredis";
import { requirePackage } from "../core/packages.js";

export type { ChainableCommander, RedisCommander, RedisOptions, Result } from "ioredis";

const ioredis = requirePackage<typeof import("ioredis")>("ioredis");

export const { Command, Redis } = ioredis;

/** An ioredis client, whoever made it: what users hold. An interface, so that users' declarations can name it. */
export interface RedisHandle extends Ioredis {}
export type QueuedCommand = IoredisCommand;
export type CommandStream = Parameters<RedisHandle["sendCommand"]>[1];

interface CommandTable {
  exists(name: string, options: { caseInsensitive: boolean }): boolean;
  hasFlag(name: string, flag: "readonly", options: { nameCaseInsensitive: boolean }): boolean;
}

let table: CommandTable | undefined;

const reads = new Map<string, boolean>();
/** A service that passes outside input to `call()` must not be able to grow the table of spellings without end. */
const MAX_SPELLINGS = 1_000;

/** By the command table that ioredis itself goes by: one lookup for each spelling already met. */
export function isReadOnly(name: string): boolean {
  const known = reads.get(name);
  if (known !== undefined) return known;
  const isRead = isInTable(name) && table!.hasFlag(name, "readonly", { nameCaseInsensitive: true });
  if (reads.size < MAX_SPELLINGS) reads.set(name, isRead);
  return isRead;
}

/** Whether ioredis knows the command, and so where its keys are. */
export function isInTable(name: string): boolean {
  // It is not exported, so it is taken from where ioredis finds it.
  table ??= requirePackage<CommandTable>("@ioredis/commands", "ioredis");
  return table.exists(name, { caseInsensitive: true });
}
