import type { BenchOptions } from "./options.js";
import { summarize, type Series } from "./statistics.js";

/** What a measurement is taken at, e.g. `{ n: 20, callers: 8 }`; names and values as `--only` takes them. */
export type Point = Readonly<Record<string, string | number>>;
/** What one round gives, e.g. `{ tasksPerSecond: 50_000 }`. */
export type Sample = Readonly<Record<string, number>>;

export interface Named<P> {
  readonly name: string;
  /** The contender of today's build, where this one is the same with an older build. */
  readonly twinOf?: string;
  /** Default: at every point. */
  readonly takesPart?: (point: P) => boolean;
}

export interface Row<P = Point> {
  readonly point: P;
  readonly contender: string;
  readonly metrics: Readonly<Record<string, Series>>;
  readonly twinOf?: string;
  /**
   * Of a twin: what today's build had in a round, divided by what the older one had in the same round. Where the load of
   * the machine changes, such quotients differ by less than those of medians.
   */
  readonly pairs?: Readonly<Record<string, Series>>;
}

export interface Interleaving<P extends Point, C extends Named<P>> {
  readonly points: readonly P[];
  readonly contenders: readonly C[];
  readonly rounds: number | ((point: P) => number);
  /** Which pass through all of this it is. Default: 0. */
  readonly pass?: number;
  /** `round` counts through all passes, and from less than the first while warming up. */
  readonly measure: (contender: C, point: P, round: number) => Promise<Sample>;
  /** Rounds before those that count. Default: none. */
  readonly warmUps?: number;
}

/** Every contender at every point, round by round in turn: what else the machine does meanwhile falls on all of them. */
export async function interleave<P extends Point, C extends Named<P>>(
  { points, contenders, rounds, pass = 0, measure, warmUps = 0 }: Interleaving<P, C>,
  options: Pick<BenchOptions, "only" | "contenders">,
): Promise<Row<P>[]> {
  const rows: Row<P>[] = [];
  for (const point of choosePoints(points, options)) {
    const taking = chooseContenders(contenders, options).filter(({ takesPart }) => takesPart?.(point) ?? true);
    const samples = taking.map((): Sample[] => []);
    const count = typeof rounds === "number" ? rounds : rounds(point);
    const firstRound = pass * count;
    for (let round = firstRound - warmUps; round < firstRound + count; round++) {
      for (const at of turns(taking.length, round + warmUps)) {
        const sample = await measure(taking[at]!, point, round);
        if (round >= firstRound) samples[at]!.push(sample);
      }
    }
    for (const [at, { name, twinOf }] of taking.entries()) {
      const today = samples[taking.findIndex((other) => other.name === twinOf)];
      rows.push({
        point,
        contender: name,
        metrics: byMetric(samples[at]!),
        ...(twinOf !== undefined && { twinOf }),
        ...(today && { pairs: byMetric(today.map((sample, round) => quotient(sample, samples[at]![round]!))) }),
      });
    }
  }
  return rows;
}

/**
 * Whose turn it is within a round. From round to round one follows another: the garbage of the one before is collected in
 * one's own turn. A Williams design (0, 1, n-1, 2, n-2 …), every other round backwards, as odd numbers want it.
 */
export function turns(count: number, round: number): number[] {
  const order = Array.from({ length: count }, (_, turn) => {
    const step = Math.ceil(turn / 2);
    return (Math.floor(round / 2) + (turn % 2 === 1 ? step : count - step)) % count;
  });
  return round % 2 === 0 ? order : order.toReversed();
}

export function choosePoints<P extends Point>(all: readonly P[], { only }: Pick<BenchOptions, "only">): P[] {
  const chosen = all.filter((point) => [...only].every(([name, value]) => String(point[name]) === value));
  if (chosen.length === 0) throw new Error(`--only leaves none of ${all.map(labelOf).join("; ")}`);
  return chosen;
}

export function chooseContenders<C extends { name: string }>(
  all: readonly C[],
  { contenders }: Pick<BenchOptions, "contenders">,
): C[] {
  if (contenders.length === 0) return [...all];
  const chosen = all.filter(({ name }) => contenders.some((part) => name.includes(part)));
  if (chosen.length === 0) throw new Error(`--contenders leaves none of ${all.map(({ name }) => name).join(", ")}`);
  return chosen;
}

export function labelOf(point: Point): string {
  return Object.entries(point)
    .map(([name, value]) => `${name}=${value}`)
    .join(" ");
}

/** One row of each place, over all rounds. */
export function mergeRounds<P>(rounds: readonly (readonly Row<P>[])[]): Row<P>[] {
  return rounds[0]!.map((first, at) => {
    return {
      ...first,
      metrics: byMetric(rounds.map((rows) => medians(rows[at]!.metrics))),
      ...(first.pairs && { pairs: byMetric(rounds.map((rows) => medians(rows[at]!.pairs!))) }),
    };
  });
}

function medians(metrics: Row["metrics"]): Sample {
  return Object.fromEntries(Object.entries(metrics).map(([metric, { median }]) => [metric, median]));
}

function quotient(today: Sample, older: Sample): Sample {
  return Object.fromEntries(Object.entries(today).map(([metric, value]) => [metric, value / older[metric]!]));
}

function byMetric(samples: readonly Sample[]): Record<string, Series> {
  const metrics = Object.keys(samples[0] ?? {});
  return Object.fromEntries(metrics.map((metric) => [metric, summarize(samples.map((sample) => sample[metric]!))]));
}
