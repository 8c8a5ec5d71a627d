import { types } from "node:util";
import { isPlainObject } from "./plain.js";
import { isReplyError, replyCode } from "./replies.js";

/** From the gravest to the chattiest; a threshold lets itself and all levels before it pass. */
export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;
export const LOG_FORMATS = ["json", "text"] as const;

/** Deep enough for a cause of a cause. A circle ends here, too. */
const MAX_DEPTH = 6;
/** Entries of one record's fields. Nobody reads a longer line, and it would hold up the thread that writes it. */
const MAX_ENTRIES = 1_000;
const SECRET = /password|passphrase|secret|^args$/i;

export type LogLevel = (typeof LOG_LEVELS)[number];
export type LogFormat = (typeof LOG_FORMATS)[number];
export type LogFields = Readonly<Record<string, unknown>>;

/** What redthread writes to. Winston, `console` and pino (behind a two-line adapter) fit; a method must not throw. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /**
   * A logger that adds these fields to its lines, as winston's and pino's `child`. With this method, children write the lines
   * of threads (`threadId`) and of tasks (`task`, `taskId`, `context`). Without it, these are among the fields.
   */
  child?(fields: LogFields): Logger;
}

/** A logger whose methods all call `write`. None of them needs `this`. */
export function loggerOf(write: (level: LogLevel, message: string, fields?: LogFields) => void): Logger {
  const at =
    (level: LogLevel): Logger[LogLevel] =>
    (message, fields) =>
      write(level, message, fields);
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

export const noopLogger: Logger = loggerOf(() => {});

/** A logger with these fields in all its lines: a child of `logger` if that makes children, else a wrapper. */
export function childOf(logger: Logger, bound: LogFields): Logger {
  return logger.child?.(bound) ?? loggerOf((level, message, fields) => logger[level](message, { ...bound, ...fields }));
}

/** Whether a record of `level` is written when the configured level is `threshold`. */
export function isLogged(level: LogLevel, threshold: LogLevel): boolean {
  return LOG_LEVELS.indexOf(level) <= LOG_LEVELS.indexOf(threshold);
}

/**
 * The part of an error that may be logged: its `code`, a server's reply code, else its name. Never the message: a server's
 * reply can quote a command's arguments, which are the user's values.
 */
export function errorCode(error: unknown): string {
  if (typeof error !== "object" || error === null) return typeof error;
  const { code, name } = error as { code?: unknown; name?: unknown };
  if (typeof code === "string" || typeof code === "number") return String(code);
  if (isReplyError(error)) return replyCode(error);
  return typeof name === "string" ? name : "object";
}

/** Why something failed, for the text of an error and never for a log. A reply shows its code only: it can quote what was sent. */
export function errorReason(error: unknown): string {
  if (isReplyError(error)) return `answered ${replyCode(error)}`;
  return (error instanceof Error && error.message) || errorCode(error);
}

/** Whether this attempt is logged: the first, then more and more seldom, down to every 256th. */
export function isTold(attempt: number): boolean {
  return attempt % Math.min(2 ** (31 - Math.clz32(attempt)), 256) === 0;
}

/** For attempts at an outage that is logged once for all clients: warnings become debug lines, and errors too without `keepsErrors`. */
export function quiet(logger: Logger, keepsErrors: boolean): Logger {
  return loggerOf((level, message, fields) =>
    logger[keepsErrors && level === "error" ? level : "debug"](message, fields),
  );
}

/** A logger that adds these fields to every line, also where the line has fields of these names. */
export function withFields(logger: Logger, added: LogFields): Logger {
  return loggerOf((level, message, fields) => logger[level](message, { ...fields, ...added }));
}

/**
 * What a log line shows of its fields, as plain data: the number of bytes instead of the bytes, no instance of a class, no
 * secret, and of errors name and code. Threads call it before the fields cross, the main thread before they are written.
 */
export function plainFields(fields?: LogFields | null): LogFields {
  try {
    return plainEntries(fields ?? {}, MAX_DEPTH, { entries: MAX_ENTRIES });
  } catch {
    return { fields: "one of them throws when it is read" }; // a log line is no reason for a task to fail
  }
}

function plainEntries(
  object: Readonly<Record<string, unknown>>,
  depth: number,
  budget: { entries: number },
): LogFields {
  const entries: [string, unknown][] = [];
  const names = Object.keys(object);
  for (const name of names) {
    if (budget.entries-- <= 0) {
      entries.push(["…", `${names.length - entries.length} more`]);
      break;
    }
    const plain = SECRET.test(name) ? "[hidden]" : plainValue(object[name], depth, budget);
    if (plain !== undefined) entries.push([name, plain]);
  }
  return Object.fromEntries(entries);
}

function plainItems(items: readonly unknown[], depth: number, budget: { entries: number }): unknown[] {
  const plain: unknown[] = [];
  for (const item of items) {
    if (budget.entries-- <= 0) return [...plain, `… ${items.length - plain.length} more`];
    plain.push(plainValue(item, depth, budget) ?? null);
  }
  return plain;
}

function plainValue(value: unknown, depth: number, budget: { entries: number }): unknown {
  if (typeof value === "function" || typeof value === "symbol") return undefined;
  if (typeof value !== "object" || value === null) return value;
  if (depth === 0) return "…";
  if (types.isNativeError(value)) return plainError(value, depth, budget);
  if (types.isDate(value)) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value)) return `${value.byteLength} bytes`;
  if (Array.isArray(value)) return plainItems(value, depth - 1, budget);
  // Instances of classes are not opened: a client holds its password, and so does a url.
  if (!isPlainObject(value)) return Object.prototype.toString.call(value);
  return plainEntries(value as Record<string, unknown>, depth - 1, budget);
}

/** A server's reply and a user's error can quote a command's arguments; redthread's own sentences do not. */
function plainError(error: Error & { code?: unknown }, depth: number, budget: { entries: number }): object {
  const { name, message, code, cause } = error;
  const isOurs = typeof code === "string" && code.startsWith("REDTHREAD_");
  const hasCause = cause !== undefined;
  return {
    name,
    ...(typeof code === "string" || typeof code === "number" ? { code } : {}),
    ...(isOurs ? { message } : {}),
    ...(hasCause ? { cause: types.isNativeError(cause) ? plainValue(cause, depth - 1, budget) : typeof cause } : {}),
  };
}
