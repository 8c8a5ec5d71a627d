/** Weight of the latest measurement. */
const WEIGHT = 0.2;
/** Of a task that none has ended of: as if it were long, for the first few would be in each other's way if it is. */
const UNKNOWN_MS = 4;

/**
 * How long a task of each name keeps its thread's loop busy, in ms: not how long it takes, a BLPOP is not heavy. What
 * a thread measures covers all that ended together, and each of them is taken for a like share of it.
 */
export class Pace {
  readonly #meansMs = new Map<string, number>();

  of(name: string): number {
    return this.#meansMs.get(name) ?? UNKNOWN_MS;
  }

  measured(names: ReadonlySet<string>, busyMs: number, tasks: number): void {
    const each = busyMs / tasks;
    for (const name of names) {
      const mean = this.#meansMs.get(name) ?? each;
      this.#meansMs.set(name, mean + WEIGHT * (each - mean));
    }
  }
}
