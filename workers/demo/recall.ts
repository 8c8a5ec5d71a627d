import type { Hits } from "../top-k.js";

/** The share of the true neighbours that were found. */
export function recall(found: readonly Hits[], exact: readonly Hits[]): number {
  let hit = 0;
  let all = 0;
  for (const [at, { rows }] of exact.entries()) {
    const known = new Set(found[at]!.rows);
    hit += rows.filter((row) => known.has(row)).length;
    all += rows.length;
  }
  return hit / all;
}
