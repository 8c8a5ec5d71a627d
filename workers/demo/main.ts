// The program of `npm run demo`. Exit codes: 0 done, 1 failed, 2 wrong command line, 128 + n ended by signal n.
import { existsSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Logger } from "../../src/index.js";
import { parseDemoArgs, USAGE, UsageError, type DemoOptions } from "./args.js";
import { runDemo } from "./demo.js";
import { Progress } from "./progress.js";

/** npm repeats a Ctrl-C that the terminal has sent to the program already: it is not a second one. */
const SAME_SIGNAL_MS = 500;

async function main(argv: readonly string[]): Promise<number> {
  const stopped = listenForSignals();
  try {
    const options = parseDemoArgs(argv);
    return options.help ? help() : await demo(options, stopped.signal);
  } catch (error) {
    if (stopped.signal.aborted) {
      const name = stopped.signal.reason as NodeJS.Signals;
      return complained(`stopped by ${name}`, 128 + constants.signals[name]);
    }
    if (!(error instanceof UsageError)) return complained(describe(error), 1);
    return complained(`${error.message}\n\n${USAGE}`, 2);
  } finally {
    stopped.close();
  }
}

function complained(message: string, exitCode: number): number {
  process.stderr.write(`demo: ${message}\n`);
  return exitCode;
}

function help(): number {
  process.stdout.write(`${USAGE}\n`);
  return 0;
}

async function demo(options: DemoOptions, signal: AbortSignal): Promise<number> {
  const progress = new Progress(process.stdout);
  const report = await runDemo({
    options,
    root: repository(),
    env: process.env,
    progress,
    logger: onlyTrouble,
    signal,
  });
  if (options.json) progress.line(JSON.stringify(report));
  return report.connectionsLeft === 0 && report.shutdown.tasks.abandoned === 0 ? 0 : 1;
}

interface Signals {
  /** Aborted by SIGINT or SIGTERM, with its name as the reason. */
  readonly signal: AbortSignal;
  close(): void;
}

/** The first signal ends the demo in order, a second one ends it at once. */
function listenForSignals(): Signals {
  const controller = new AbortController();
  let firstAt = 0;
  const hear = (name: NodeJS.Signals): void => {
    if (!controller.signal.aborted) {
      firstAt = performance.now();
      controller.abort(name);
    } else if (performance.now() - firstAt > SAME_SIGNAL_MS) process.exit(128 + constants.signals[name]);
  };
  // The reader of the output has gone (`| head`): there is no more reason to work.
  const pipeClosed = (): void => controller.abort("SIGPIPE");
  process.on("SIGINT", hear).on("SIGTERM", hear);
  process.stdout.on("error", pipeClosed);
  process.stderr.on("error", () => {}); // nobody reads this message
  return { signal: controller.signal, close: () => void process.off("SIGINT", hear).off("SIGTERM", hear) };
}

const onlyTrouble: Logger = {
  debug: () => {},
  info: () => {},
  warn: (message, fields) => complain("warning", message, fields),
  error: (message, fields) => complain("error", message, fields),
};

function complain(level: string, message: string, fields: object = {}): void {
  process.stderr.write(`demo: ${level}: ${message} ${JSON.stringify(fields)}\n`);
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error && !error.message.includes(error.cause.message) ? error.cause : undefined;
  return cause ? `${error.message} (${describe(cause)})` : error.message;
}

function repository(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}

process.exitCode = await main(process.argv.slice(2));
