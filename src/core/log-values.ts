import { types } from "node:util";
import type { LogFields } from "./log.js";
import { isPlainObject } from "./plain.js";

/** Deep enough for a cause of a cause. A circle ends here, too. */
const MAX_DEPTH = 6;
/** Entries of one record's fields. Nobody reads a longer line, and it would hold up the thread that writes it. */
const MAX_ENTRIES = 1_000;
const SECRET = /password|passphrase|secret|^args$/i;

interface Budget {
  entries: number;
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

function plainEntries(object: Readonly<Record<string, unknown>>, depth: number, budget: Budget): LogFields {
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

function plainItems(items: readonly unknown[], depth: number, budget: Budget): unknown[] {
  const plain: unknown[] = [];
  for (const item of items) {
    if (budget.entries-- <= 0) return [...plain, `… ${items.length - plain.length} more`];
    plain.push(plainValue(item, depth, budget) ?? null);
  }
  return plain;
}

function plainValue(value: unknown, depth: number, budget: Budget): unknown {
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
function plainError(error: Error & { code?: unknown }, depth: number, budget: Budget): object {
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
