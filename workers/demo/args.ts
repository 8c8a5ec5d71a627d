import { parseArgs } from "node:util";

export interface DemoOptions {
  /** How many of the most frequent words to store. */
  readonly words: number;
  /** Undefined: the manager's default. */
  readonly threads: number | undefined;
  readonly json: boolean;
  readonly help: boolean;
  /** The words whose neighbours are shown; empty: a few famous ones. */
  readonly queries: readonly string[];
}

/** The user has to change the command line. */
export class UsageError extends Error {}

export const MIN_WORDS = 1_000;
export const MAX_WORDS = 341_479;
const MAX_THREADS = 64;

export const USAGE = `Usage: npm run demo -- [options] [word …]

Stores word vectors in Redis through worker threads, in five precisions, and finds the nearest neighbours of words.

  --words N      the N most frequent words, ${MIN_WORDS} to ${MAX_WORDS} (default 50000)
  --threads N    worker threads, 1 to ${MAX_THREADS} (default: the cores this process may use)
  --json         print one JSON object as the last line
  --help         print this

REDIS_URL names the Redis to use; without it a local redis-server or valkey-server is started, else an embedded server.`;

/** @throws UsageError */
export function parseDemoArgs(argv: readonly string[]): DemoOptions {
  const { values, positionals } = parse(argv);
  return {
    words: wholeNumber("--words", values.words ?? "50000", MIN_WORDS, MAX_WORDS),
    threads: values.threads === undefined ? undefined : wholeNumber("--threads", values.threads, 1, MAX_THREADS),
    json: values.json ?? false,
    help: values.help ?? false,
    queries: [...new Set(positionals.map((word) => word.toLowerCase()))],
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        words: { type: "string" },
        threads: { type: "string" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    // Only the first sentence, because the rest of Node's message explains how to pass such an argument as a word.
    throw new UsageError((error as Error).message.split(". ")[0], { cause: error });
  }
}

function wholeNumber(flag: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new UsageError(`${flag} takes a whole number from ${min} to ${max}, not "${text}"`);
}
