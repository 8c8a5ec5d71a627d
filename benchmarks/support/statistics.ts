/** A metric of one contender at one point, over its rounds. */
export interface Series {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly rounds: number;
}

export function summarize(values: readonly number[]): Series {
  return { median: quantile(values, 0.5), min: Math.min(...values), max: Math.max(...values), rounds: values.length };
}

/** Between the two nearest where it falls between them; NaN of nothing. Infinity is a value: what never came. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).toSorted();
  const at = (sorted.length - 1) * share;
  const below = sorted[Math.floor(at)] ?? NaN;
  const above = sorted[Math.ceil(at)] ?? NaN;
  if (below === above) return below;
  return below + (above - below) * (at - Math.floor(at));
}
