import { types } from "node:util";
import { isPlainObject } from "../common/option-kinds.js";
import type { LogFields, LogFormat, LogLevel } from "../common/log.js";

/** Deep enough for a cause of a cause; also what ends a circle. */
const MAX_DEPTH = 6;

/** One record as one line, without its newline. Errors show name and code; their message only when it is redthread's. */
export function logLine(format: LogFormat, level: LogLevel, message: string, fields: LogFields = {}): string {
  const ts = new Date().toISOString();
  const plainFields = Object.entries(fields).flatMap(([name, value]) => {
    const plain = SECRET.test(name) ? "[hidden]" : plainValue(value, MAX_DEPTH);
    return plain === undefined || RESERVED.has(name) ? [] : [[name, plain] as const];
  });
  if (format === "json") return JSON.stringify({ ts, level, message, ...Object.fromEntries(plainFields) });
  const pairs = plainFields.map(([name, value]) => ` ${textValue(name)}=${textValue(value)}`);
  return `${ts} ${level.toUpperCase().padEnd(5)} ${escapeControls(message)}${pairs.join("")}`;
}

const RESERVED: ReadonlySet<string> = new Set(["ts", "level", "message"]);

const SECRET = /password|passphrase|secret|^args$/i;

function plainValue(value: unknown, depth: number): unknown {
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number" && !Number.isFinite(value)) return String(value);
  if (typeof value === "function" || typeof value === "symbol") return undefined;
  if (typeof value !== "object" || value === null) return value;
  if (depth === 0) return "…";
  if (types.isNativeError(value)) return plainError(value, depth);
  if (types.isDate(value)) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (ArrayBuffer.isView(value)) return `${value.byteLength} bytes`;
  if (Array.isArray(value)) return value.map((item) => plainValue(item, depth - 1) ?? null);
  // Not into the instances of classes: a client holds its password, a url as well.
  if (!isPlainObject(value)) return Object.prototype.toString.call(value);
  return Object.fromEntries(
    Object.entries(value).map(([name, part]) => [name, SECRET.test(name) ? "[hidden]" : plainValue(part, depth - 1)]),
  );
}

/** A server's reply and a user's error can quote a command's arguments; redthread's own sentences do not. */
function plainError(error: Error & { code?: unknown }, depth: number): object {
  const { name, message, code, cause } = error;
  const isOurs = typeof code === "string" && code.startsWith("REDTHREAD_");
  return {
    name,
    ...(typeof code === "string" || typeof code === "number" ? { code } : {}),
    ...(isOurs ? { message } : {}),
    ...(cause === undefined ? {} : { cause: types.isNativeError(cause) ? plainValue(cause, depth - 1) : typeof cause }),
  };
}

function textValue(value: unknown): string {
  const isBare = typeof value === "string" && /^[^\s"=\p{Cc}]+$/u.test(value);
  return isBare ? value : JSON.stringify(value);
}

/** A record is one line, whatever stands in its message. */
function escapeControls(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029]/gu, (control) => JSON.stringify(control).slice(1, -1));
}
