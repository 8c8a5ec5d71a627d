import type { Near } from "../../src/worker.js";

const WRITTEN = 0;
const IS_OVER = 1;
/** A reader has so many calls under way, of which the later ones may join the earlier ones. */
const AT_ONCE = 8;

export interface Raced {
  readonly reads: number;
  readonly stale: number;
}

/** One counter that is written over and over, and read by all threads meanwhile. No read may find less than was written before it. */
export class NearRace {
  static readonly key = "near:counter";
  readonly buffer: SharedArrayBuffer;
  readonly #cells: Int32Array<SharedArrayBuffer>;

  constructor(buffer = new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT)) {
    this.buffer = buffer;
    this.#cells = new Int32Array(buffer);
  }

  /** The last value whose write has resolved. */
  get written(): number {
    return Atomics.load(this.#cells, WRITTEN);
  }

  async write(count: number, set: (value: number) => unknown): Promise<void> {
    for (let i = 0; i < count; i++) {
      const next = this.written + 1;
      await set(next);
      Atomics.store(this.#cells, WRITTEN, next);
    }
  }

  end(): void {
    Atomics.store(this.#cells, IS_OVER, 1);
  }

  async read(near: Near): Promise<Raced> {
    const raced = { reads: 0, stale: 0 };
    const judge = (value: string | null | undefined, before: number): void => {
      raced.reads++;
      if (value !== undefined && Number(value) < before) raced.stale++;
    };
    const underWay = new Set<Promise<void>>();
    for (let i = 0; Atomics.load(this.#cells, IS_OVER) === 0; i++) {
      const before = this.written;
      judge(near.peek(NearRace.key), before);
      if (underWay.size < AT_ONCE) {
        const asked = near.get(NearRace.key, { fresh: i % 4 === 0 });
        const answered: Promise<void> = asked
          .then((value) => judge(value, before))
          .finally(() => underWay.delete(answered));
        underWay.add(answered);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    await Promise.all(underWay);
    return raced;
  }
}
