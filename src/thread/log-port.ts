import { inspect, types } from "node:util";
import type { LedgerRow } from "../common/ledger.js";
import { isLogged, type LogFields, type Logger, type LogLevel } from "../common/log.js";
import type { FromThread, LogRecord } from "../common/protocol.js";

/** Records on their way or waiting; a manager that does not keep up costs memory in both threads. */
const MAX_UNDER_WAY = 10_000;

/** The thread's logger: filtered here, written on the main thread, bounded, and never in a task's way. */
export class LogPort implements Logger {
  readonly #post: (message: FromThread) => void;
  readonly #row: LedgerRow;
  readonly #level: LogLevel;
  #records: LogRecord[] = [];
  #dropped = 0;
  #scheduled = false;

  constructor(post: (message: FromThread) => void, row: LedgerRow, level: LogLevel) {
    this.#post = post;
    this.#row = row;
    this.#level = level;
  }

  debug(message: string, fields?: LogFields): void {
    this.#log("debug", message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.#log("info", message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#log("warn", message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.#log("error", message, fields);
  }

  /** The same logger with fields that every line of it carries. */
  child(fields: LogFields): Logger {
    const logAt =
      (level: LogLevel) =>
      (message: string, own?: LogFields): void =>
        this.#log(level, message, { ...fields, ...own });
    return { debug: logAt("debug"), info: logAt("info"), warn: logAt("warn"), error: logAt("error") };
  }

  /** Sends what is waiting, at once. */
  flush(): void {
    this.#scheduled = false;
    const records = this.#records;
    const dropped = this.#dropped;
    if (records.length === 0 && dropped === 0) return;
    this.#records = [];
    this.#dropped = 0;
    this.#post({ type: "logs", records, dropped });
  }

  #log(level: LogLevel, message: string, fields: LogFields = {}): void {
    if (!isLogged(level, this.#level)) return;
    const underWay = this.#row.get("logsMade") - this.#row.get("logsTaken") - this.#dropped;
    this.#row.add("logsMade", 1); // at once: a thread that is ended sends nothing more
    if (underWay >= MAX_UNDER_WAY) this.#dropped++;
    else this.#records.push({ level, message: String(message), fields: plainFields(fields) });
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.flush());
  }
}

function plainFields(fields: LogFields): LogFields {
  return Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, plain(value)]));
}

/** What a log line can say of a value without keeping it, cloning its world, or quoting a server's reply. */
function plain(value: unknown): unknown {
  if (value === null || ["string", "number", "boolean", "undefined", "bigint"].includes(typeof value)) return value;
  if (types.isNativeError(value)) {
    const { name, code, message } = value as Error & { code?: unknown };
    const isOurs = typeof code === "string" && code.startsWith("REDTHREAD_");
    return { name, ...(code === undefined ? {} : { code: plain(code) }), ...(isOurs ? { message } : {}) };
  }
  try {
    return JSON.parse(JSON.stringify(value)) as unknown;
  } catch {
    return inspect(value, { depth: 2 }); // cycles, bigints inside: still a line, not a failure of the task
  }
}
