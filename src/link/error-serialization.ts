import { types } from "node:util";
import { ERROR_CLASSES, type ErrorDetails, RedthreadError } from "../core/errors.js";
import { requirePackage } from "../core/packages.js";
import type { ErrorData } from "./protocol.js";
import { isCloneable } from "./uncloneable.js";

/** Chains of causes are short. A chain of this depth is a cycle or a bug, and its rest tells nothing. */
const MAX_DEPTH = 8;
const OWN_PARTS = new Set(["name", "message", "stack", "cause", "errors"]);
/** The names of the classes of an error that came as data. An adapter looks for it, perhaps in another copy of this package. */
const CLASSES = Symbol.for("redthread.classes");

/**
 * An error as data that survives any channel: name, message, stack, own cloneable fields, causes. Never throws, even if the
 * error's getters do, because its callers already handle one error and could report no second one.
 */
export function toErrorData(error: unknown): ErrorData {
  try {
    return readError(error, 0);
  } catch {
    return { name: "Error", message: "what was thrown throws when it is read", fields: {} };
  }
}

function readError(error: unknown, depth: number): ErrorData {
  const isDom = isDomException(error);
  if (!isDom && !isError(error)) return { thrown: isCloneable(error) ? error : String(error) };
  const { name, message, stack, cause, errors } = error as Error & { errors?: unknown };
  const deeper = depth < MAX_DEPTH;
  return {
    name: String(name),
    message: String(message),
    fields: cloneableFields(error),
    ...(depth === 0 ? { classes: classesOf(error) } : {}),
    ...(isDom ? { isDom } : {}),
    ...(typeof stack === "string" ? { stack } : {}),
    ...(cause !== undefined && deeper ? { cause: readError(cause, depth + 1) } : {}),
    ...(Array.isArray(errors) && deeper ? { errors: errors.map((one) => readError(one, depth + 1)) } : {}),
  };
}

/** A copy of the error for another caller, so that a field that one caller adds does not appear in the other's error. */
export function sameError(error: Error): Error {
  if (!(error instanceof RedthreadError)) return error;
  const { code: _, ...fields } = error;
  const made = new (error.constructor as new (message: string, details: ErrorDetails) => RedthreadError)(
    error.message,
    {
      ...fields,
      ...(error.cause === undefined ? {} : { cause: error.cause }),
    },
  );
  return Object.defineProperty(made, "stack", { value: error.stack, configurable: true, writable: true });
}

/** Without `instanceof`, because errors of other realms (test runners, vm) are errors too. */
function isError(error: unknown): error is Error {
  return types.isNativeError(error);
}

/** The default reason of an AbortSignal is a DOMException. Node 20 does not treat it as an error, and clones it to an empty object. */
function isDomException(error: unknown): error is DOMException {
  return Object.prototype.toString.call(error) === "[object DOMException]";
}

/** The error that `toErrorData` was given, of its own class if that is a class of redthread or the language, or ReplyError. */
export function fromErrorData(data: ErrorData): unknown {
  if ("thrown" in data) return data.thrown;
  const { name, message, stack, fields, cause, errors, classes, isDom = false } = data;
  const error = isDom
    ? new DOMException(message, name)
    : errors
      ? new AggregateError(errors.map(fromErrorData), message)
      : emptyError(name, (fields as { code?: unknown }).code, message);
  if (cause !== undefined) define(error, "cause", fromErrorData(cause));
  if (error.name !== name) define(error, "name", name);
  if (stack !== undefined) define(error, "stack", stack);
  // Not by assignment: a field can have any name, also "__proto__".
  for (const [key, value] of Object.entries(fields)) define(error, key, value, true);
  if (classes) define(error, CLASSES, classes);
  return error;
}

type ErrorClass = new (message: string) => Error;

const LANGUAGE_ERRORS = new Map<string, ErrorClass>(
  [TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError].map((made) => [made.name, made]),
);

function emptyError(name: string, code: unknown, message: string): Error {
  const ours = classOf(code);
  if (ours) return new ours(message);
  return new (name === "ReplyError" ? replyErrorClass() : (LANGUAGE_ERRORS.get(name) ?? Error))(message);
}

let ReplyError: ErrorClass | undefined;

/** The class that ioredis exports, from the package in which ioredis finds it, because this thread may not have loaded ioredis. */
function replyErrorClass(): ErrorClass {
  try {
    ReplyError ??= requirePackage<{ readonly ReplyError: ErrorClass }>("redis-errors", "ioredis").ReplyError;
  } catch {
    ReplyError = Error; // callers can still tell it by its name
  }
  return ReplyError;
}

let classes: ReadonlyMap<unknown, ErrorClass> | undefined;

function classOf(code: unknown): ErrorClass | undefined {
  classes ??= new Map(ERROR_CLASSES.map((made) => [new made("").code, made]));
  return classes.get(code);
}

function define(error: Error, key: string | symbol, value: unknown, enumerable = false): void {
  Object.defineProperty(error, key, { value, configurable: true, writable: true, enumerable });
}

/** Bounded, because a prototype may be a proxy that is its own prototype. If a prototype throws, the names before it are given. */
function classesOf(error: object): string[] {
  const names: string[] = [];
  try {
    let made = Object.getPrototypeOf(error) as object | null;
    for (; made && names.length < MAX_DEPTH; made = Object.getPrototypeOf(made) as object | null) {
      names.push(String(made.constructor?.name));
    }
  } catch {
    // The error itself tells the rest.
  }
  return names;
}

function cloneableFields(error: Error): Record<string, unknown> {
  const entries = Object.keys(error)
    .filter((key) => !OWN_PARTS.has(key))
    .map((key) => [key, (error as unknown as Record<string, unknown>)[key]] as const);
  return Object.fromEntries(entries.filter(([, value]) => isCloneable(value)));
}
