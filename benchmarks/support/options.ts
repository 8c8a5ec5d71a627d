import { existsSync } from "node:fs";
import { basename } from "node:path";
import { parseArgs } from "node:util";

export interface BenchOptions {
  /** Scripts to run; empty: all. */
  readonly names: readonly string[];
  /** As little work as shows that the script runs; its figures mean nothing. */
  readonly isSmoke: boolean;
  /** Writes figures and chart to docs/benchmarks. */
  readonly isSaved: boolean;
  /** Keeps the points with these values: `--only n=0,callers=64`. */
  readonly only: ReadonlyMap<string, string>;
  /** Keeps the contenders whose names contain one of these: `--contenders redthread,bare`. Empty: all. */
  readonly contenders: readonly string[];
  /** A packed build of redthread: each contender that uses redthread runs once more with it. */
  readonly beside?: string;
}

/** All benchmarks, in the order in which they run, and whether `--beside` can go with them. */
export const BENCHMARKS: Readonly<Record<string, { readonly canBeside: boolean }>> = {
  dispatch: { canBeside: true },
  values: { canBeside: true },
  map: { canBeside: true },
  outage: { canBeside: false },
  cluster: { canBeside: false },
  acquire: { canBeside: true },
  latency: { canBeside: true },
  startup: { canBeside: true },
  shutdown: { canBeside: true },
  memory: { canBeside: true },
  deploy: { canBeside: false },
  vectors: { canBeside: false }, // it imports the sources of the demo and of redthread, not a package
  limit: { canBeside: false },
  overhead: { canBeside: false }, // it imports modules that a packed build does not export
  sync: { canBeside: true },
  pipeline: { canBeside: true },
  leases: { canBeside: false }, // it imports the scripts, and older builds have no locks
  "near-cache": { canBeside: false }, // older builds have none
  "near-memory": { canBeside: false },
  "near-writes": { canBeside: false },
};

export const USAGE =
  "Usage: npm run bench -- [NAME …] [--smoke] [--save] [--only KEY=VALUE,…] [--contenders PART-OF-NAME,…] [--beside TARBALL]";

/** Throws for options that do not go together. `script` is a benchmark, or `run`, which starts the named ones. */
export function parseBenchOptions(
  argv: readonly string[] = process.argv.slice(2),
  script: string = basename(process.argv[1] ?? "", ".js"),
): BenchOptions {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      smoke: { type: "boolean" },
      save: { type: "boolean" },
      only: { type: "string" },
      contenders: { type: "string" },
      beside: { type: "string" },
    },
  });
  const { smoke = false, save = false, only = "", contenders = "", beside } = values;
  // A chart of a part would replace the chart of the whole.
  if (save && (smoke || only || contenders || beside !== undefined)) {
    throw new Error(`--save goes with whole runs of today's build only\n${USAGE}`);
  }
  if (beside !== undefined) checkBeside(beside, script in BENCHMARKS ? [script] : positionals);
  return {
    names: positionals,
    isSmoke: smoke,
    isSaved: save,
    only: new Map(listed(only).map((pair) => [pair.split("=")[0]!, pair.split("=")[1] ?? ""])),
    contenders: listed(contenders),
    ...(beside !== undefined && { beside }),
  };
}

/** Without names all benchmarks would run, and not all of them can run an older build. */
function checkBeside(tarball: string, names: readonly string[]): void {
  const all = Object.keys(BENCHMARKS);
  const unable = (names.length > 0 ? names : all).filter((name) => BENCHMARKS[name]?.canBeside === false);
  if (unable.length > 0) {
    const able = all.filter((name) => BENCHMARKS[name]!.canBeside);
    throw new Error(`--beside does not go with ${unable.join(", ")}, only with ${able.join(", ")}`);
  }
  if (!existsSync(tarball)) throw new Error(`--beside: there is no file ${tarball}`);
}

function listed(text: string): string[] {
  return text.split(",").filter((part) => part !== "");
}
