/** Weight of the latest measurement. */
const WEIGHT = 0.2;
/** So many messages without a task that waited make the next ones immediate. */
const STREAK = 8;

/** Names that are remembered: whoever adds jobs to a queue can choose names without end. */
const MOST = 1_000;

/** What the next task of a name is taken for. */
export interface Expected {
  /** How long it keeps its thread's loop busy: not how long it takes, a BLPOP is not heavy. */
  readonly busyMs: number;
  /** It waits for nothing: it ends as soon as it has begun. */
  readonly isImmediate: boolean;
}

/** None has ended of it: as if it were long, for the first few would be in each other's way if it is. */
const UNKNOWN: Expected = { busyMs: 4, isImmediate: false };

class Measured implements Expected {
  busyMs: number;
  #streak = 0;

  constructor(busyMs: number) {
    this.busyMs = busyMs;
  }

  get isImmediate(): boolean {
    return this.#streak >= STREAK;
  }

  add(busyMs: number, areImmediate: boolean | undefined): void {
    this.busyMs += WEIGHT * (busyMs - this.busyMs);
    if (areImmediate !== undefined) this.#streak = areImmediate ? this.#streak + 1 : 0;
  }
}

/** What is expected of a task of each name. What a thread measures covers all that ended together, and each is taken for a like share of it. */
export class CostEstimator {
  readonly #measured = new Map<string, Measured>();

  of(name: string): Expected {
    return this.#measured.get(name) ?? UNKNOWN;
  }

  measured(names: ReadonlySet<string>, busyMs: number, areImmediate: boolean | undefined): void {
    for (const name of names) {
      const known = this.#measured.get(name) ?? new Measured(busyMs);
      known.add(busyMs, areImmediate);
      this.#measured.delete(name);
      this.#measured.set(name, known); // the last to go
      if (this.#measured.size > MOST) this.#measured.delete(this.#measured.keys().next().value!);
    }
  }
}
