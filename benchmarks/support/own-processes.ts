import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Row } from "./interleave.js";
import { type BenchOptions, parseBenchOptions } from "./options.js";
import { summarize } from "./statistics.js";

/**
 * What `script` prints, as JSON, in a process of its own with this one's flags of Node; it gets `input` by `roundInput()`.
 * Two contenders with the same code differ by a tenth for as long as their process lives, so each round has its own.
 */
export async function inOwnProcess<T>(script: URL, input: unknown): Promise<T> {
  const argv = [...process.execArgv, fileURLToPath(script), JSON.stringify(input), ...process.argv.slice(2)];
  const { stdout } = await promisify(execFile)(process.execPath, argv, { maxBuffer: 2 ** 28 });
  return JSON.parse(stdout) as T;
}

/** What the process of a round was given. */
export function roundInput(): { readonly input: unknown; readonly options: BenchOptions } {
  return { input: JSON.parse(process.argv[2]!), options: parseBenchOptions(process.argv.slice(3)) };
}

/** One row of each place, over all rounds. */
export function mergeRounds<P>(rounds: readonly (readonly Row<P>[])[]): Row<P>[] {
  return rounds[0]!.map((first, at) => {
    const metrics = Object.keys(first.metrics).map((metric) => {
      const medians = rounds.map((rows) => rows[at]!.metrics[metric]!.median);
      return [metric, summarize(medians)] as const;
    });
    return { ...first, metrics: Object.fromEntries(metrics) };
  });
}
