import { fingerprint } from "../config/endpoint.js";
import type { Endpoint } from "../config/options.js";
import { Breaker } from "./breaker.js";

/** With more addresses than this in a process's life, some share a breaker: their probers then serve each other. */
const ROWS = 64;
const CELLS_PER_ROW = 1 + Breaker.CELLS;

/**
 * A breaker for each node of a Cluster, in memory that all threads share: every thread finds the same one by the node's
 * address. All zeros is its beginning.
 */
export class NodeBreakers {
  static readonly CELLS = ROWS * CELLS_PER_ROW;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #breakers: readonly Breaker[];

  constructor(cells: Int32Array<SharedArrayBuffer>, row: number) {
    this.#cells = cells;
    this.#breakers = Array.from({ length: ROWS }, (_, at) => {
      const from = at * CELLS_PER_ROW + 1;
      return new Breaker(cells.subarray(from, from + Breaker.CELLS), row);
    });
  }

  of(node: Endpoint): Breaker {
    const mark = fingerprint(node);
    const first = (mark >>> 0) % ROWS;
    for (let i = 0; i < ROWS; i++) {
      const row = (first + i) % ROWS;
      const found = Atomics.compareExchange(this.#cells, row * CELLS_PER_ROW, 0, mark);
      if (found === 0 || found === mark) return this.#breakers[row]!;
    }
    return this.#breakers[first]!;
  }

  /** Of a node that somebody wants and nobody reaches, if there is one: one that nobody probes any more has left. */
  get open(): Breaker | undefined {
    for (const breaker of this.#breakers) if (breaker.isForgotten) breaker.dismiss();
    return this.#breakers.find(({ state }) => state !== "closed");
  }

  /** A thread that is gone probes no more. */
  sweep(row: number): void {
    for (const breaker of this.#breakers) breaker.sweep(row);
  }
}
