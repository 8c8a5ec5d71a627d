// main/observe is what a running manager shows: its log (here), its numbers (stats.ts), and a page of them (dashboard.ts).
// It may import what the main thread's clients may (src/clients and all below), and reads main/threads and main/dispatch.
// Levels, time, formats and transports are winston's; core/log.ts says what may stand in a line.
import { once } from "node:events";
import { Writable } from "node:stream";
import type { LogConfig } from "../../config/options.js";
import { isLogged, type LogFields, type Logger, loggerOf, type LogLevel, plainFields } from "../../core/log.js";
import { requirePackage } from "../../core/packages.js";

export interface ClosableLogger extends Logger {
  /** Resolves when everything logged before is written; later lines are dropped. Idempotent, never rejects. */
  close(): Promise<void>;
}

/** The part of winston that is used. */
interface Sink {
  /** The fields stand apart, because at the top winston has a meaning of its own for some names, as `exception` and `stack`. */
  log(record: { level: LogLevel; message: string; fields: LogFields }): unknown;
  child(bound: LogFields): Sink;
  end(): unknown;
}

/** The built-in logger. It writes to stderr, because stdout belongs to the service. */
export function createLogger(log: LogConfig, stream: NodeJS.WritableStream = process.stderr): ClosableLogger {
  let root: Sink | undefined;
  let lines: Writable;
  let closing: Promise<void> | undefined;
  const openRoot = (): Sink => (root ??= openSink(log, (lines = unfailing(stream))));
  const close = async (): Promise<void> => {
    if (!root) return;
    const written = once(lines, "finish");
    root.end();
    await written;
  };
  /** `sink` loads winston, which takes 80 ms. Therefore records below the level end here, and not in winston. */
  const loggerTo = (sink: () => Sink): Logger => ({
    ...loggerOf((level, message, fields = {}) => {
      if (!closing && isLogged(level, log.level)) sink().log({ level, message: String(message), fields });
    }),
    child(bound) {
      let child: Sink | undefined;
      return loggerTo(() => (child ??= sink().child(bound)));
    },
  });
  return { ...loggerTo(openRoot), close: () => (closing ??= close()) };
}

function openSink(log: LogConfig, lines: Writable): Sink {
  try {
    return openWinston(log, lines);
  } catch {
    return withoutWinston(lines);
  }
}

function openWinston(log: LogConfig, lines: Writable): Sink {
  const { createLogger: createWinston, format, transports } = requirePackage<typeof import("winston")>("winston");
  const shown = format(({ level, message, timestamp, fields, ...bound }) =>
    shownOf(timestamp, level, message, bound, fields as LogFields),
  );
  const rendered =
    log.format === "json" ? format.json({ deterministic: false, replacer: jsonValue }) : format.printf(textLine);
  const winston = createWinston({
    level: log.level,
    format: format.timestamp(),
    transports: [new transports.Stream({ stream: lines, eol: "\n", format: format.combine(shown(), rendered) })],
  });
  return winston.once("finish", () => lines.end());
}

/** Used when winston cannot be loaded, as when no file descriptor is left: JSON in place of any format is better than no log. */
function withoutWinston(lines: Writable, bound: LogFields = {}): Sink {
  return {
    log({ level, message, fields }) {
      const shown = shownOf(new Date().toISOString(), level, message, bound, fields);
      lines.write(`${JSON.stringify(shown, jsonValue)}\n`);
    },
    child: (more) => withoutWinston(lines, { ...bound, ...more }),
    end: () => lines.end(),
  };
}

/** The content of a line, without secrets. Time, level and message come first, and no field of these names replaces them. */
function shownOf<M>(ts: unknown, level: string, message: M, bound: LogFields, fields: LogFields | undefined) {
  const own = { ts, level, message };
  return { ...own, ...plainFields(bound), ...plainFields(fields), ...own };
}

/** JSON has no bigint, no NaN and no infinity. */
function jsonValue(_: string, value: unknown): unknown {
  return typeof value === "bigint" || (typeof value === "number" && !Number.isFinite(value)) ? String(value) : value;
}

function textLine({ ts, level, message, ...fields }: { level: string } & LogFields): string {
  const pairs = Object.entries(fields).map(([name, value]) => ` ${textValue(name)}=${textValue(jsonValue("", value))}`);
  return `${String(ts)} ${level.toUpperCase().padEnd(5)} ${escapeControls(String(message))}${pairs.join("")}`;
}

function textValue(value: unknown): string {
  const isBare = typeof value === "string" && /^[^\s"=\p{Cc}]+$/u.test(value);
  return isBare ? value : JSON.stringify(value, jsonValue);
}

/** A record stays one line, whatever its message contains. */
function escapeControls(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029]/gu, (control) => JSON.stringify(control).slice(1, -1));
}

/**
 * Writes to `stream`, one chunk after the other, and finishes when everything has left this process, also through a pipe. It
 * never ends `stream`, which belongs to the process. It does not fail with it: the service goes on when the reader of its
 * log goes away.
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
