import type { LogFields, LogFormat, LogLevel } from "../../core/log.js";
import { plainFields } from "../../core/log-values.js";

/** One record as one line, without its newline. Errors show name and code; their message only when it is redthread's. */
export function logLine(format: LogFormat, level: LogLevel, message: string, fields: LogFields = {}): string {
  const ts = new Date().toISOString();
  const shown = Object.entries(plainFields(fields, { isForJson: true })).filter(([name]) => !RESERVED.has(name));
  if (format === "json") return JSON.stringify({ ts, level, message, ...Object.fromEntries(shown) });
  const pairs = shown.map(([name, value]) => ` ${textValue(name)}=${textValue(value)}`);
  return `${ts} ${level.toUpperCase().padEnd(5)} ${escapeControls(message)}${pairs.join("")}`;
}

const RESERVED: ReadonlySet<string> = new Set(["ts", "level", "message"]);

function textValue(value: unknown): string {
  const isBare = typeof value === "string" && /^[^\s"=\p{Cc}]+$/u.test(value);
  return isBare ? value : JSON.stringify(value);
}

/** A record is one line, whatever stands in its message. */
function escapeControls(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029]/gu, (control) => JSON.stringify(control).slice(1, -1));
}
