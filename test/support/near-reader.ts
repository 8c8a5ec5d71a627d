import type { Near } from "../../src/worker.js";
import type { NearKey } from "./near-values.js";
import { writeIn } from "./near-values.js";

const COUNTS = ["isOver", "peeks", "hits", "gets", "failed", "bad", "nulls"] as const;

/** What the readers of a process have seen, shared by all of its threads. */
export interface NearRecord {
  /** By the number of a write: when the last read began that saw its value, in ns. */
  readonly seen: BigInt64Array<SharedArrayBuffer>;
  /** The same for `peek`, which never asks the server. */
  readonly peeked: BigInt64Array<SharedArrayBuffer>;
  /** Pairs: a key's index, and when a read began that saw no value. */
  readonly nulls: BigInt64Array<SharedArrayBuffer>;
  readonly counts: Int32Array<SharedArrayBuffer>;
}

export function makeRecord(writes: number, nulls: number): NearRecord {
  const counts = new Int32Array(new SharedArrayBuffer(4 * COUNTS.length));
  return { seen: words(writes), peeked: words(writes), nulls: words(2 * nulls), counts };
}

export function count({ counts }: NearRecord, what: (typeof COUNTS)[number], by = 1): number {
  return Atomics.add(counts, COUNTS.indexOf(what), by);
}

function words(length: number): BigInt64Array<SharedArrayBuffer> {
  return new BigInt64Array(new SharedArrayBuffer(length * BigInt64Array.BYTES_PER_ELEMENT));
}

/** Of nulls of one key that come one after the other, the last of so many ns is recorded. */
const NULLS_NS = 5_000_000n;

/** Reads keys through a near cache, and records when each read began and what it saw. */
export class NearReader {
  readonly #near: Near;
  readonly #record: NearRecord;
  readonly #keys: readonly NearKey[];
  readonly #random: () => number;
  /** What was found to be whole, by key. */
  readonly #whole: { value: string; write: number }[] = [];
  readonly #lastNulls: { at: bigint; index: number }[] = [];
  readonly problems: string[] = [];

  constructor(near: Near, record: NearRecord, keys: readonly NearKey[], random: () => number) {
    this.#near = near;
    this.#record = record;
    this.#keys = keys;
    this.#random = random;
  }

  get isOver(): boolean {
    return count(this.#record, "isOver", 0) > 0;
  }

  /** Reads for `ms`, in this way and that. */
  async read(ms: number): Promise<void> {
    const end = performance.now() + ms;
    while (performance.now() < end && !this.isOver) {
      const way = this.#random();
      if (way < 0.4) this.#peekFor(Math.min(5 + this.#random() * 150, ms));
      else if (way < 0.8) await this.#getMany(1 + Math.floor(this.#random() * 20));
      else await new Promise((resolve) => setTimeout(resolve, this.#random() * 20));
    }
  }

  /** Without returning to the loop. */
  #peekFor(ms: number): void {
    const end = performance.now() + ms;
    while (performance.now() < end) {
      for (let i = 0; i < 50; i++) this.#peek(this.#pick());
    }
  }

  #pick(): number {
    return Math.floor(this.#keys.length * this.#random() * this.#random());
  }

  #peek(index: number): void {
    const key = this.#keys[index]!;
    const began = process.hrtime.bigint();
    const text = this.#near.peek(key.name);
    count(this.#record, "peeks");
    if (text === undefined) return;
    count(this.#record, "hits");
    const write = this.#saw(index, began, text);
    if (write !== undefined) latest(this.#record.peeked, write, began);
  }

  async #getMany(reads: number): Promise<void> {
    await Promise.all(Array.from({ length: reads }, () => this.#get()));
  }

  async #get(): Promise<void> {
    const [index, way] = [this.#pick(), this.#random()];
    const key = this.#keys[index]!;
    const options = { fresh: this.#random() < 0.05 };
    const began = process.hrtime.bigint();
    count(this.#record, "gets");
    try {
      if (way < 0.3) this.#saw(index, began, await this.#near.getBuffer(key.name, options));
      else if (way < 0.5 && key.kind === "json") {
        const value = await this.#near.json<object>(key.name, options);
        this.#saw(index, began, value && JSON.stringify(value));
      } else if (way < 0.6) {
        const indexes = [index, this.#pick(), this.#pick()];
        const texts = await this.#near.mget(indexes.map((one) => this.#keys[one]!.name));
        for (const [i, text] of texts.entries()) this.#saw(indexes[i]!, began, text);
      } else this.#saw(index, began, await this.#near.get(key.name, options));
    } catch (error) {
      const isExpected = error instanceof Error && ("code" in error || error.name === "ReplyError");
      if (!isExpected) throw error;
      count(this.#record, "failed"); // the connection is away, or the server busy
    }
  }

  /** The number of the value's write. */
  #saw(index: number, began: bigint, value: string | Buffer | null): number | undefined {
    if (value === null) {
      this.#sawNull(index, began);
      return undefined;
    }
    const write = this.#writeIn(index, value);
    if (write !== undefined) latest(this.#record.seen, write, began);
    return write;
  }

  #writeIn(index: number, value: string | Buffer): number | undefined {
    const known = this.#whole[index];
    if (known?.value === value) return known.write;
    try {
      const write = writeIn(this.#keys[index]!, value);
      if (typeof value === "string") this.#whole[index] = { value, write };
      return write;
    } catch (error) {
      count(this.#record, "bad");
      this.problems.push((error as Error).message);
      return undefined;
    }
  }

  #sawNull(index: number, began: bigint): void {
    const { nulls } = this.#record;
    const last = this.#lastNulls[index];
    if (last && began - last.at < NULLS_NS) return void Atomics.store(nulls, 2 * last.index + 1, began);
    const at = count(this.#record, "nulls");
    if (2 * at >= nulls.length) return;
    this.#lastNulls[index] = { at: began, index: at };
    Atomics.store(nulls, 2 * at, BigInt(index));
    Atomics.store(nulls, 2 * at + 1, began);
  }
}

function latest(times: BigInt64Array<SharedArrayBuffer>, write: number, began: bigint): void {
  for (;;) {
    const last = Atomics.load(times, write);
    if (last >= began || Atomics.compareExchange(times, write, last, began) === last) return;
  }
}
