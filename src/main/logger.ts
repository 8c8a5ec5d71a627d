import { once } from "node:events";
import { Writable } from "node:stream";
import type * as Winston from "winston";
import { isLogged, LOG_LEVELS, type LogFields, type Logger, type LogLevel } from "../common/log.js";
import type { LogConfig } from "../common/options.js";
import { logLine } from "./log-line.js";

export interface ClosableLogger extends Logger {
  /** Resolves when everything logged before is written; what is logged later is dropped. Idempotent, never rejects. */
  close(): Promise<void>;
}

/** Lines on stderr, since stdout belongs to the service. Winston is loaded by the first record that is written. */
export function createLogger(log: LogConfig, stream: NodeJS.WritableStream = process.stderr): ClosableLogger {
  return new WinstonLogger(log, stream);
}

class WinstonLogger implements ClosableLogger {
  readonly #log: LogConfig;
  readonly #stream: NodeJS.WritableStream;
  /** Written, in this order, once winston is there. */
  #early: [LogLevel, string][] = [];
  #loading: Promise<void> | undefined;
  #winston: Winston.Logger | undefined;
  #closing: Promise<void> | undefined;

  constructor(log: LogConfig, stream: NodeJS.WritableStream) {
    this.#log = log;
    this.#stream = stream;
  }

  debug = (message: string, fields?: LogFields): void => this.#write("debug", message, fields);
  info = (message: string, fields?: LogFields): void => this.#write("info", message, fields);
  warn = (message: string, fields?: LogFields): void => this.#write("warn", message, fields);
  error = (message: string, fields?: LogFields): void => this.#write("error", message, fields);

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  #write(level: LogLevel, message: string, fields: LogFields | undefined): void {
    if (this.#closing || !isLogged(level, this.#log.level)) return;
    // Now, not when it is written: by then the time is another one, and the fields may be too.
    const line = logLine(this.#log.format, level, message, fields);
    if (this.#winston) {
      this.#winston.log(level, line);
      return;
    }
    this.#early.push([level, line]);
    this.#loading ??= this.#load();
  }

  async #load(): Promise<void> {
    const { createLogger: createWinston, format, transports } = await import("winston");
    this.#stream.on("error", ignore);
    const winston = createWinston({
      level: this.#log.level,
      levels: Object.fromEntries(LOG_LEVELS.map((level, index) => [level, index])),
      format: format.printf(({ message }) => String(message)),
      transports: [new transports.Stream({ stream: writtenTo(this.#stream), eol: "\n" })],
    });
    for (const [level, line] of this.#early) winston.log(level, line);
    this.#early = [];
    this.#winston = winston;
  }
}
