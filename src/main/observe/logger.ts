import { once } from "node:events";
import { Writable } from "node:stream";
import type { LogConfig } from "../../config/options.js";
import { isLogged, LOG_LEVELS, type LogFields, type Logger, type LogLevel } from "../../core/log.js";
import { requirePackage } from "../../core/packages.js";
import { logLine } from "./log-line.js";

export interface ClosableLogger extends Logger {
  /** Resolves when everything logged before is written; what is logged later is dropped. Idempotent, never rejects. */
  close(): Promise<void>;
}

/** Lines on stderr, since stdout belongs to the service. Winston is loaded by the first record that is written. */
export function createLogger(log: LogConfig, stream: NodeJS.WritableStream = process.stderr): ClosableLogger {
  return new LazyLogger(log, stream);
}

/** Where lines go: through winston, or straight to the stream when winston cannot be loaded. */
interface Sink {
  write(level: LogLevel, line: string): void;
  end(): Promise<void>;
}

class LazyLogger implements ClosableLogger {
  readonly #log: LogConfig;
  readonly #stream: NodeJS.WritableStream;
  /** What was logged before the sink was there. */
  #early: [LogLevel, string][] = [];
  #sink: Sink | undefined;
  #opening: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor(log: LogConfig, stream: NodeJS.WritableStream) {
    this.#log = log;
    this.#stream = stream;
  }

  // Bound, so that `const { warn } = logger` and `onError: logger.error` work.
  readonly debug = (message: string, fields?: LogFields): void => this.#write("debug", message, fields);
  readonly info = (message: string, fields?: LogFields): void => this.#write("info", message, fields);
  readonly warn = (message: string, fields?: LogFields): void => this.#write("warn", message, fields);
  readonly error = (message: string, fields?: LogFields): void => this.#write("error", message, fields);

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  #write(level: LogLevel, message: string, fields: LogFields | undefined): void {
    if (this.#closing || !isLogged(level, this.#log.level)) return;
    // Now, not when it is written: by then the time is another one, and the fields may be too.
    const line = logLine(this.#log.format, level, message, fields);
    if (this.#sink) {
      this.#sink.write(level, line);
      return;
    }
    this.#early.push([level, line]);
    this.#opening ??= this.#open(); // never rejects
  }

  async #open(): Promise<void> {
    const lines = unfailing(this.#stream);
    const sink = await openWinston(this.#log, lines).catch(() => plainSink(lines)); // better plain lines than none
    for (const [level, line] of this.#early) sink.write(level, line);
    this.#early = [];
    this.#sink = sink;
  }

  async #close(): Promise<void> {
    await this.#opening;
    await this.#sink?.end();
  }
}

async function openWinston(log: LogConfig, lines: Writable): Promise<Sink> {
  const { createLogger: createWinston, format, transports } = requirePackage<typeof import("winston")>("winston");
  const winston = createWinston({
    level: log.level,
    levels: Object.fromEntries(LOG_LEVELS.map((level, index) => [level, index])),
    format: format.printf(({ message }) => String(message)),
    transports: [new transports.Stream({ stream: lines, eol: "\n" })],
  });
  return {
    write: (level, line) => void winston.log(level, line),
    async end() {
      const finished = once(winston, "finish");
      winston.end();
      await finished;
      await endOf(lines);
    },
  };
}

function plainSink(lines: Writable): Sink {
  return { write: (_, line) => void lines.write(`${line}\n`), end: () => endOf(lines) };
}

async function endOf(lines: Writable): Promise<void> {
  const finished = once(lines, "finish");
  lines.end();
  await finished;
}

/**
 * Writes on to `stream`, one chunk after the other, and finishes once all has left this process, pipes included. It
 * never ends `stream`, which is the process's, and does not fail with it: a reader of the log that has gone away
 * must not take the service with it.
 */
function unfailing(stream: NodeJS.WritableStream): Writable {
  stream.on("error", ignore);
  return new Writable({
    decodeStrings: false,
    write: (chunk: string, _, done) => void stream.write(chunk, () => done()),
    final(done) {
      // The error of a failed write is emitted after its callback.
      setImmediate(() => {
        stream.off("error", ignore);
        done();
      });
    },
  });
}

function ignore(): void {}
