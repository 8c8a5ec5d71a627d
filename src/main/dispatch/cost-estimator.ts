/** Weight of the latest measurement. */
const WEIGHT = 0.2;
/** After this many messages in a row without a task that waited, the next tasks count as immediate. */
const STREAK = 8;

/** How many names are remembered. A queue of jobs may bring names without end. */
const MOST = 1_000;

/** What the next task of a name is expected to cost. */
export interface Expected {
  /** How long it keeps its thread's loop busy. A BLPOP takes long, but costs little. */
  readonly busyMs: number;
  /** It ends as soon as it has begun, because it waits for nothing. */
  readonly isImmediate: boolean;
}

/** No task of the name has ended. It is taken for long, because the first few would be in each other's way if it is. */
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

/** Learns what a task of each name costs. A thread measures all tasks that ended together: each counts as an equal share. */
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
      this.#measured.set(name, known); // it is forgotten last
      if (this.#measured.size > MOST) this.#measured.delete(this.#measured.keys().next().value!);
    }
  }
}
