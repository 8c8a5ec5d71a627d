import { isReplyError, replyCode } from "./replies.js";

/** From the gravest to the chattiest; a threshold lets through itself and all before it. */
export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;
export const LOG_FORMATS = ["json", "text"] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];
export type LogFormat = (typeof LOG_FORMATS)[number];
export type LogFields = Readonly<Record<string, unknown>>;

/** What redthread writes to. Winston, pino (behind a two-line adapter) and `console` fit; a method must not throw. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}

export const noopLogger: Logger = { debug: noop, info: noop, warn: noop, error: noop };

/** Whether a record of `level` is written when the configured level is `threshold`. */
export function isLogged(level: LogLevel, threshold: LogLevel): boolean {
  return LOG_LEVELS.indexOf(level) <= LOG_LEVELS.indexOf(threshold);
}

/**
 * The part of an error that may be logged: its `code`, a server's reply code, else its name. Never the message: a server's
 * reply can quote a command's arguments, and those are the users' values.
 */
export function errorCode(error: unknown): string {
  if (typeof error !== "object" || error === null) return typeof error;
  const { code, name } = error as { code?: unknown; name?: unknown };
  if (typeof code === "string" || typeof code === "number") return String(code);
  if (isReplyError(error)) return replyCode(error);
  return typeof name === "string" ? name : "object";
}

/** Why something failed, for the text of an error, never for a log. Of a reply, which can quote what was sent, only the code. */
export function errorReason(error: unknown): string {
  if (isReplyError(error)) return `answered ${replyCode(error)}`;
  return (error instanceof Error && error.message) || errorCode(error);
}

/** Whether the log tells of this attempt: the first, then more and more seldom, down to every 256th. */
export function isTold(attempt: number): boolean {
  return attempt % Math.min(2 ** (31 - Math.clz32(attempt)), 256) === 0;
}

/** For attempts whose outage is told once for all clients: only errors are told, and without `keepsErrors` not even these. */
export function quiet(logger: Logger, keepsErrors: boolean): Logger {
  const debug: Logger["debug"] = (message, fields) => logger.debug(message, fields);
  return { debug, info: debug, warn: debug, error: keepsErrors ? (...line) => logger.error(...line) : debug };
}

/** Adds these fields to every line. */
export function withFields(logger: Logger, added: LogFields): Logger {
  const lines = LOG_LEVELS.map((level) => [
    level,
    (message: string, fields?: LogFields) => logger[level](message, { ...fields, ...added }),
  ]);
  return Object.fromEntries(lines) as Logger;
}

function noop(): void {}
