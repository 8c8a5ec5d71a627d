import { NotCloneableError } from "../../core/errors.js";

/** A command's name and arguments as they cross to the helper, where ioredis turns numbers into text. */
export type SyncRequest = readonly (string | number | Buffer)[];

/** Commands whose fields may come as one object or Map after so many arguments; `redis.call()` lays them out. */
const FIELDS_BEHIND: ReadonlyMap<string, number> = new Map([
  ["mset", 0],
  ["msetnx", 0],
  ["hset", 1],
  ["hmset", 1],
]);

/**
 * A command as `redis.call(...given)` of ioredis would send it. Other values than text and Buffers become text here, because
 * only here do they still have their class and its `toString`.
 * @throws REDTHREAD_NOT_CLONEABLE
 */
export function requestOf(given: unknown, index?: number): SyncRequest {
  if (!Array.isArray(given)) throw refused(index, "", "is not an array of its name and arguments");
  const [name] = given as unknown[];
  if (typeof name !== "string") throw refused(index, "[0]", "is not the name of a command");
  return given.every(isSendable) ? given : [name, ...sendable(name, given.slice(1), index)];
}

/** The same for each command of a pipeline. */
export function requestsOf(given: unknown): SyncRequest[] {
  if (!Array.isArray(given)) throw refused("all", "", "are not an array of commands");
  return Array.from(given, requestOf);
}

function isSendable(part: unknown): part is SyncRequest[number] {
  return typeof part === "string" || typeof part === "number" || Buffer.isBuffer(part);
}

function sendable(name: string, given: readonly unknown[], index: number | undefined): SyncRequest {
  if (typeof given.at(-1) === "function") throw refused(index, `[${given.length}]`, "is a callback");
  return laidOut(name, given.flat()).map((part, i) => {
    if (isSendable(part)) return part;
    try {
      // oxlint-disable-next-line typescript/no-base-to-string -- also "[object Object]" is what ioredis sends
      return String(part ?? "");
    } catch (cause) {
      throw refused(index, `[${i + 1}]`, "has no text", cause);
    }
  });
}

function laidOut(name: string, args: readonly unknown[]): readonly unknown[] {
  const before = FIELDS_BEHIND.get(name);
  const fields = before === undefined || args.length !== before + 1 ? undefined : args[before];
  if (typeof fields !== "object" || fields === null) return args;
  const pairs: Iterable<unknown[]> = fields instanceof Map ? fields : Object.entries(fields);
  return [...args.slice(0, before), ...[...pairs].flat()];
}

function refused(index: number | "all" | undefined, at: string, why: string, cause?: unknown): NotCloneableError {
  const where = index === undefined ? "command" : index === "all" ? "commands" : `commands[${index}]`;
  const path = where + at;
  return new NotCloneableError(`a synchronous call was not sent: ${path} ${why}`, { outcome: "not-sent", path, cause });
}
