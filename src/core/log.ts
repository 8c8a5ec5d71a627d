import { isReplyError, replyCode } from "./replies.js";

/** From the gravest to the chattiest; a threshold lets itself and all levels before it pass. */
export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;
export const LOG_FORMATS = ["json", "text"] as const;

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
   * A logger that adds these fields to its lines, as winston's and pino's `child`. Where it is there, the lines of threads
   * are written by children with `threadId` and, of tasks, `task`, `taskId` and `context`; else these are among the fields.
   */
  child?(fields: LogFields): Logger;
}

/** A logger whose methods all call `write`; none needs its `this`. */
export function loggerOf(write: (level: LogLevel, message: string, fields?: LogFields) => void): Logger {
  const at =
    (level: LogLevel): Logger[LogLevel] =>
    (message, fields) =>
      write(level, message, fields);
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

export const noopLogger: Logger = loggerOf(() => {});

/** A logger whose lines carry these fields: the logger's own child where it makes children. */
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
