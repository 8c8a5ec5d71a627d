import type { ShutdownReport } from "../../src/index.js";
import type { Progress } from "./progress.js";

/** The output of `--json`. */
export interface DemoReport {
  readonly words: number;
  readonly dimensions: number;
  readonly strategies: readonly StrategyReport[];
  readonly nearCache: NearReport;
  readonly queries: readonly { word: string; neighbours: readonly { word: string; score: number }[] }[];
  readonly threads: number;
  /** All threads together, from the first stored block to the last answered query. */
  readonly tasksPerSecond: number;
  readonly connectionsLeft: number;
  readonly shutdown: ShutdownReport;
}

/** The near cache, through which the rows of int8 are read. */
export interface NearReport {
  /** Why it is off; null if it is on. */
  readonly off: string | null;
  readonly reads: number;
  /** The share of the reads that asked nothing of Redis. */
  readonly hitRate: number;
}

export interface StrategyReport {
  readonly name: string;
  /** The size of what is searched; "sign" ranks its candidates by rows of int8. */
  readonly bytesPerVector: number;
  readonly recallAt10: number;
  readonly queriesPerSecond: number;
}

export function printNeighbours(progress: Progress, queries: DemoReport["queries"]): void {
  progress.line();
  for (const { word, neighbours } of queries) {
    const list = neighbours.map((neighbour) => `${neighbour.word} ${neighbour.score.toFixed(2)}`).join(", ");
    progress.line(`  ${word}: ${list}`);
  }
  progress.line();
}

export function printStrategies(progress: Progress, strategies: readonly StrategyReport[]): void {
  progress.line();
  progress.line(["  strategy", "bytes per vector", "recall@10", "queries/s"].map((head) => head.padStart(18)).join(""));
  for (const { name, bytesPerVector, recallAt10, queriesPerSecond } of strategies) {
    const cells = [name, String(bytesPerVector), recallAt10.toFixed(3), queriesPerSecond.toFixed(0)];
    progress.line(cells.map((cell) => cell.padStart(18)).join(""));
  }
  progress.line("  (sign: 1 bit per dimension to choose candidates, which are then ranked by their int8 rows)");
  progress.line();
}

export function printNear(progress: Progress, { off, reads, hitRate }: NearReport): void {
  const rate = `${(hitRate * 100).toFixed(1)} % of ${reads} reads of int8 vectors`;
  progress.line(off === null ? `near cache: ${rate} asked nothing of Redis` : `${off}; ${reads} reads went to Redis`);
}
