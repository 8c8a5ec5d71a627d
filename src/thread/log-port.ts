import { isLogged, type LogFields, type Logger, type LogLevel } from "../core/log.js";
import { plainFields } from "../core/log-values.js";
import type { LedgerRow } from "../link/ledger.js";
import type { FromThread, LogRecord } from "../link/protocol.js";

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
    this.#log("debug", message, () => plainFields(fields));
  }

  info(message: string, fields?: LogFields): void {
    this.#log("info", message, () => plainFields(fields));
  }

  warn(message: string, fields?: LogFields): void {
    this.#log("warn", message, () => plainFields(fields));
  }

  error(message: string, fields?: LogFields): void {
    this.#log("error", message, () => plainFields(fields));
  }

  /** The same logger with fields that every line of it carries; the lines are those of the task of this number. */
  child(fields: LogFields, job: number): Logger {
    let plain: LogFields | undefined;
    const logAt =
      (level: LogLevel) =>
      (message: string, own: LogFields = {}): void =>
        this.#log(level, message, () => ({ ...(plain ??= plainFields(fields)), ...plainFields(own) }), job);
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

  #log(level: LogLevel, message: string, fields: () => LogFields, job?: number): void {
    if (!isLogged(level, this.#level)) return;
    const underWay = this.#row.get("logsMade") - this.#row.get("logsTaken") - this.#dropped;
    this.#row.add("logsMade", 1); // at once: a thread that is ended sends nothing more
    if (underWay >= MAX_UNDER_WAY) this.#dropped++;
    else {
      const record = { level, message: String(message), fields: fields() };
      this.#records.push(job === undefined ? record : { ...record, job });
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => this.flush());
  }
}
