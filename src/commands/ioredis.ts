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

/** ioredis' reader of a connection. It drops what the server pushes, unless it is of a subscription. */
interface Reader {
  readonly redis: object;
  returnPush: (this: Reader, push: unknown) => void;
}
type OnInvalidated = (keys: readonly Buffer[] | null) => void;

let invalidated: WeakMap<object, OnInvalidated> | undefined;

/**
 * From now on `listener` is called with the keys of each invalidation that the server pushes to this client, or with null for all
 * keys, in the order of the replies. Only for a thread that tracks, because all its pushes are looked at.
 */
export function listenToInvalidations(redis: object, listener: OnInvalidated): void {
  invalidated ??= interceptPushes();
  invalidated.set(redis, listener);
}

function interceptPushes(): WeakMap<object, OnInvalidated> {
  const listeners = new WeakMap<object, OnInvalidated>();
  const { prototype } = requirePackage<{ default: { prototype: Reader } }>(
    "ioredis/built/DataHandler",
    "ioredis",
  ).default;
  const { returnPush } = prototype;
  prototype.returnPush = function (push) {
    const listener = listeners.get(this.redis);
    if (listener && Array.isArray(push) && String(push[0]) === "invalidate") listener(push[1] as Buffer[] | null);
    else Reflect.apply(returnPush, this, [push]);
  };
  return listeners;
}

interface CommandTable {
  exists(name: string, options: { caseInsensitive: boolean }): boolean;
  hasFlag(name: string, flag: "readonly", options: { nameCaseInsensitive: boolean }): boolean;
}

let table: CommandTable | undefined;

/** A service that passes outside input to `call()` must not be able to grow a table of spellings without end. */
const MAX_SPELLINGS = 1_000;

/** A function that finds a property of a command by its name, and remembers it for each spelling. */
export function bySpelling<T extends string | boolean>(find: (name: string) => T): (name: string) => T {
  const known = new Map<string, T>();
  return (name) => {
    let found = known.get(name);
    if (found !== undefined) return found;
    found = find(name);
    if (known.size < MAX_SPELLINGS) known.set(name, found);
    return found;
  };
}

/** Whether ioredis knows the command, and so where its keys are. */
export const isInTable = bySpelling((name) => {
  // ioredis does not export its table, so it is required from where ioredis finds it.
  table ??= requirePackage<CommandTable>("@ioredis/commands", "ioredis");
  return table.exists(name, { caseInsensitive: true });
});

/** Whether ioredis' own command table says that the command only reads. */
export const isReadOnly = bySpelling(
  (name) => isInTable(name) && table!.hasFlag(name, "readonly", { nameCaseInsensitive: true }),
);
