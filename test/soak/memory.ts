import { collect } from "../support/old-space.js";

interface Sample {
  readonly heap: number;
  readonly rss: number;
}

const SAMPLE_MS = 10_000;
/** In a shorter run, the first quarter's growth to working size is most of the run. */
const JUDGED_FROM_MS = 240_000;
/**
 * Collections of five heaps and the allocator's leftovers move RSS by some 10 % from one quarter to the next, while a
 * leak of 1 kB per task is tens of MB a minute. It is judged from the second quarter on, because heaps and caches grow
 * to their size in the first one.
 */
const SHARE = 1.2;
const MARGIN_MB = 20;

/** The memory of the process while it runs: it stays flat if nothing is kept. */
export class Memory {
  readonly #samples: Sample[] = [];
  readonly #startedAt = performance.now();
  readonly #timer = setInterval(() => this.#sample(), SAMPLE_MS).unref();

  stop(): void {
    clearInterval(this.#timer);
  }

  /** The medians of each quarter of the run, as lines of a table; none if the run was too short. */
  table(): string[] {
    const quarters = this.#quarters();
    if (!quarters) return [];
    const row = (name: string, of: (sample: Sample) => number): string =>
      name.padEnd(28) + quarters.map((quarter) => String(median(quarter.map(of))).padStart(6)).join("");
    return [row("heap by quarter, MB", ({ heap }) => heap), row("RSS by quarter, MB", ({ rss }) => rss)];
  }

  problems(): string[] {
    const quarters = this.#quarters();
    if (!quarters || performance.now() - this.#startedAt < JUDGED_FROM_MS) return [];
    const [, early, , late] = quarters.map((quarter) => median(quarter.map(({ rss }) => rss)));
    const most = early! * SHARE + MARGIN_MB;
    return late! > most
      ? [`memory grows: RSS went from ${early} MB in the second quarter to ${late} MB in the last`]
      : [];
  }

  #sample(): void {
    collect(); // otherwise heapUsed would depend on the time of the last collection
    const { heapUsed, rss } = process.memoryUsage();
    this.#samples.push({ heap: Math.round(heapUsed / 1e6), rss: Math.round(rss / 1e6) });
  }

  #quarters(): Sample[][] | undefined {
    const { length } = this.#samples;
    if (length < 4) return undefined;
    return [0, 1, 2, 3].map((i) =>
      this.#samples.slice(Math.floor((length * i) / 4), Math.floor((length * (i + 1)) / 4)),
    );
  }
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;
}
