import type { BenchOptions } from "./options.js";

/** The conditions of a measurement, e.g. `{ n: 20, callers: 8 }`; `--only` takes these names and values. */
export type Point = Readonly<Record<string, string | number>>;
/** The result of one round, e.g. `{ tasksPerSecond: 50_000 }`. */
export type Sample = Readonly<Record<string, number>>;

/** A metric of one contender at one point, over its rounds. */
export interface Series {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly rounds: number;
}

export interface Named<P> {
  readonly name: string;
  /** If this is a contender with an older build: the name of the same contender with today's build. */
  readonly twinOf?: string;
  /** Default: it takes part at every point. */
  readonly takesPart?: (point: P) => boolean;
}

/** A contender that measures itself. */
export interface Rival {
  readonly name: string;
  readonly measure: () => Promise<Sample>;
}

export interface Row<P = Point> {
  readonly point: P;
  readonly contender: string;
  readonly metrics: Readonly<Record<string, Series>>;
  readonly twinOf?: string;
  /**
   * Today's figures of a round, divided by the older build's in the same round. When the load of the machine changes,
   * such quotients differ by less than quotients of medians.
   */
  readonly pairs?: Readonly<Record<string, Series>>;
}

export interface Interleaving<P extends Point, C extends Named<P>> {
  readonly points: readonly P[];
  readonly contenders: readonly C[];
  readonly rounds: number | ((point: P) => number);
  /** How many passes through all of this were before it. Default: 0. */
  readonly pass?: number;
  /** `round` counts through all passes; it is less than the first one while warming up. */
  readonly measure: (contender: C, point: P, round: number) => Promise<Sample>;
  /** Rounds before the first one that counts. Default: none. */
  readonly warmUps?: number;
}

export interface InProcesses<P extends Point, C extends Named<P>, Process extends AsyncDisposable> extends Omit<
  Interleaving<P, C & { readonly process: Process }>,
  "contenders" | "pass"
> {
  readonly contenders: readonly C[];
  readonly passes: number;
  readonly open: (contender: C) => Process;
  /** All processes are up before the first one is warmed, because a start takes a core. */
  readonly start?: (process: Process) => Promise<unknown>;
  readonly warm: (process: Process, contender: C) => Promise<unknown>;
}

/** Measures all contenders in turn, round by round and point by point, so that other load of the machine meets all of them. */
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

/** The same, pass by pass, with a fresh process of each contender in each: two with the same code differ while they live. */
export async function interleaveProcesses<P extends Point, C extends Named<P>, Process extends AsyncDisposable>(
  { contenders, passes, open, start, warm, ...rest }: InProcesses<P, C, Process>,
  options: Pick<BenchOptions, "only" | "contenders">,
): Promise<Row<P>[]> {
  const byPass: Row<P>[][] = [];
  for (let pass = 0; pass < passes; pass++) {
    const opened = chooseContenders(contenders, options).map((one) => ({ ...one, process: open(one) }));
    for (const { process } of opened) await start?.(process);
    // In turn: the process that is warmed first is a sixth slower with one caller for as long as it lives.
    for (const at of turns(opened.length, pass)) await warm(opened[at]!.process, opened[at]!);
    byPass.push(await interleave({ ...rest, contenders: opened, pass }, options));
    for (const { process } of opened) await process[Symbol.asyncDispose]();
  }
  return mergeRounds(byPass);
}

/**
 * The order of the contenders in a round. It changes, because a contender's turn also collects the garbage of the one
 * before it: a Williams design (0, 1, n-1, 2, n-2 …), reversed in every other round, as it must be for odd numbers.
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

/** One row for each point and contender, over all rounds. */
export function mergeRounds<P>(rounds: readonly (readonly Row<P>[])[]): Row<P>[] {
  return rounds[0]!.map((first, at) => {
    return {
      ...first,
      metrics: byMetric(rounds.map((rows) => medians(rows[at]!.metrics))),
      ...(first.pairs && { pairs: byMetric(rounds.map((rows) => medians(rows[at]!.pairs!))) }),
    };
  });
}

export function summarize(values: readonly number[]): Series {
  return { median: quantile(values, 0.5), min: Math.min(...values), max: Math.max(...values), rounds: values.length };
}

/** Interpolates between the two nearest values; NaN without values. Infinity, what never came, is a value. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = Float64Array.from(values).toSorted();
  const at = (sorted.length - 1) * share;
  const below = sorted[Math.floor(at)] ?? NaN;
  const above = sorted[Math.ceil(at)] ?? NaN;
  if (below === above) return below;
  return below + (above - below) * (at - Math.floor(at));
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
