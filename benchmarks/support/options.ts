import { parseArgs } from "node:util";

export interface BenchOptions {
  /** Scripts to run; empty: all. */
  readonly names: readonly string[];
  /** As little as shows that it runs; its figures mean nothing. */
  readonly isSmoke: boolean;
  /** Writes JSON and chart to docs/benchmarks. */
  readonly isSaved: boolean;
  /** Keeps the points with these values: `--only n=0,callers=64`. */
  readonly only: ReadonlyMap<string, string>;
  /** Keeps the contenders whose names contain one of these: `--contenders redthread,bare`. Empty: all. */
  readonly contenders: readonly string[];
}

export const USAGE =
  "Usage: npm run bench -- [NAME …] [--smoke] [--save] [--only KEY=VALUE,…] [--contenders PART-OF-NAME,…]";

export function parseBenchOptions(argv: readonly string[] = process.argv.slice(2)): BenchOptions {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      smoke: { type: "boolean" },
      save: { type: "boolean" },
      only: { type: "string" },
      contenders: { type: "string" },
    },
  });
  const { smoke = false, save = false, only = "", contenders = "" } = values;
  // A chart of a part would replace the chart of the whole.
  if (save && (smoke || only || contenders)) throw new Error(`--save goes with whole runs only\n${USAGE}`);
  return {
    names: positionals,
    isSmoke: smoke,
    isSaved: save,
    only: new Map(listed(only).map((pair) => [pair.split("=")[0]!, pair.split("=")[1] ?? ""])),
    contenders: listed(contenders),
  };
}

function listed(text: string): string[] {
  return text.split(",").filter((part) => part !== "");
}
