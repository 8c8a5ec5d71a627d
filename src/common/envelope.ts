import { types } from "node:util";
import { ERROR_CLASSES, type RedthreadError } from "./errors.js";
import type { ErrorData } from "./protocol.js";

/** Cause chains are short; one this deep is a cycle or a bug, and the rest tells nothing. */
const MAX_DEPTH = 8;
const OWN_PARTS = new Set(["name", "message", "stack", "cause", "errors"]);

/**
 * An error as data that survives any channel: name, message, stack, own cloneable fields, causes. Never throws, whatever
 * the error's own getters do: who calls it has an error at hand already, and nobody to tell of another.
 */
export function toErrorData(error: unknown): ErrorData {
  try {
    return readError(error, 0);
  } catch {
    return { name: "Error", message: "what was thrown throws when it is read", fields: {} };
  }
}

function readError(error: unknown, depth: number): ErrorData {
  // Not `instanceof`: errors of other realms (test runners, vm) are errors too.
  if (!types.isNativeError(error)) return { thrown: isCloneable(error) ? error : String(error) };
  const { name, message, stack, cause, errors } = error as Error & { errors?: unknown };
  const deeper = depth < MAX_DEPTH;
  return {
    name: String(name),
    message: String(message),
    fields: cloneableFields(error),
    ...(typeof stack === "string" ? { stack } : {}),
    ...(cause !== undefined && deeper ? { cause: readError(cause, depth + 1) } : {}),
    ...(Array.isArray(errors) && deeper ? { errors: errors.map((one) => readError(one, depth + 1)) } : {}),
  };
}

/** The error again, of its own class where that is one of redthread's or of the language's. */
export function fromErrorData(data: ErrorData): unknown {
  if ("thrown" in data) return data.thrown;
  const { name, message, stack, fields, cause, errors } = data;
  const error = errors
    ? new AggregateError(errors.map(fromErrorData), message)
    : emptyError(name, (fields as { code?: unknown }).code, message);
  if (cause !== undefined) define(error, "cause", fromErrorData(cause));
  if (error.name !== name) define(error, "name", name);
  if (stack !== undefined) define(error, "stack", stack);
  // Not assigned: a field can have any name, "__proto__" too.
  for (const [key, value] of Object.entries(fields)) define(error, key, value, true);
  return error;
}

/** Where in `value` the first part sits that structured cloning refuses, e.g. `input.rows[3].onDone`; else undefined. */
export function uncloneablePath(value: unknown, root: string): string | undefined {
  const seen = new Set<unknown>();
  const search = (part: unknown, path: string): string | undefined => {
    if (isCloneable(part)) return undefined;
    if (typeof part !== "object" || part === null) return path;
    if (seen.has(part)) return undefined; // a circle: its parts are being searched already
    seen.add(part);
    for (const [key, child] of entriesOf(part)) {
      const found = search(child, /^\d+$/.test(key) ? `${path}[${key}]` : `${path}.${key}`);
      if (found) return found;
    }
    return path;
  };
  return search(value, root);
}

const LANGUAGE_ERRORS = new Map<string, new (message: string) => Error>(
  [TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError].map((made) => [made.name, made]),
);

function emptyError(name: string, code: unknown, message: string): Error {
  const ours = ERROR_CLASSES.find((made) => code === codeOf(made));
  if (ours) return new ours(message);
  return new (LANGUAGE_ERRORS.get(name) ?? Error)(message);
}

const codes = new Map<unknown, string>();

function codeOf(made: (typeof ERROR_CLASSES)[number]): string {
  let code = codes.get(made);
  if (code === undefined) codes.set(made, (code = (new made("") as RedthreadError).code));
  return code;
}

function define(error: Error, key: string, value: unknown, enumerable = false): void {
  Object.defineProperty(error, key, { value, configurable: true, writable: true, enumerable });
}

function cloneableFields(error: Error): Record<string, unknown> {
  const entries = Object.keys(error)
    .filter((key) => !OWN_PARTS.has(key))
    .map((key) => [key, (error as unknown as Record<string, unknown>)[key]] as const);
  return Object.fromEntries(entries.filter(([, value]) => isCloneable(value)));
}

function entriesOf(part: object): Iterable<[string, unknown]> {
  if (part instanceof Map) return [...part.values()].map((value, i) => [String(i), value]);
  if (part instanceof Set) return [...part].map((value, i) => [String(i), value]);
  return Object.entries(part);
}

function isCloneable(value: unknown): boolean {
  if (value === null || (typeof value !== "object" && typeof value !== "function")) return typeof value !== "symbol";
  try {
    structuredClone(value);
    return true;
  } catch {
    return false; // the question was whether it throws
  }
}
