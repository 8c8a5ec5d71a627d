import { isLogged, type LogFields, type Logger, loggerOf, type LogLevel, plainFields } from "../core/log.js";
import type { LedgerRow } from "../link/ledger.js";
import type { FromThread, LogRecord } from "../link/protocol.js";

/** Records on their way or waiting; a manager that does not keep up costs memory in both threads. */
const MAX_UNDER_WAY = 10_000;

/** Sends the thread's log records to the main thread, which writes them. It filters and bounds them, and never blocks a task. */
export class LogPort {
  /** For lines of the thread itself, which belong to no task. */
  readonly logger: Logger = this.#loggerOf();
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

  /** A logger with these fields in all its lines, which are written in the scope of this task's caller. */
  ofTask(job: number, fields: LogFields): Logger {
    let bound: LogFields | undefined;
    return this.#loggerOf(() => ({ job, bound: (bound ??= plainFields(fields)) }));
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

  #loggerOf(task?: () => Pick<LogRecord, "job" | "bound">): Logger {
    return loggerOf((level, message, fields) => {
      if (!isLogged(level, this.#level)) return;
      const underWay = this.#row.get("logsMade") - this.#row.get("logsTaken") - this.#dropped;
      this.#row.add("logsMade", 1); // at once: a thread that is ended sends nothing more
      if (underWay >= MAX_UNDER_WAY) this.#dropped++;
      else this.#records.push({ level, message: String(message), fields: plainFields(fields), ...task?.() });
      if (this.#scheduled) return;
      this.#scheduled = true;
      setImmediate(() => this.flush());
    });
  }
}
