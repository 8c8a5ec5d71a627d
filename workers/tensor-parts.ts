import type { RangeReader } from "./lazy-tensor.js";

/** Reads whole values. A client has it, and the near cache. */
export interface ValueReader {
  getBuffer(key: string): Promise<Buffer | null>;
}

/** The largest value that a near cache keeps, by its default. */
export const PART_BYTES = 64 * 1024;

/** The keys of a tensor of so many bytes that is stored in parts. */
export function partKeys(key: string, bytes: number): string[] {
  return Array.from({ length: Math.ceil(bytes / PART_BYTES) }, (_, part) => partKey(key, part));
}

/** Reads a tensor that is stored in parts, as if it were under one key. */
export class PartReader implements RangeReader {
  readonly #values: ValueReader;

  constructor(values: ValueReader) {
    this.#values = values;
  }

  /** As GETRANGE: what is behind the tensor's end is left out. */
  async getrangeBuffer(key: string, start: number, end: number): Promise<Buffer> {
    const first = Math.floor(start / PART_BYTES);
    const count = Math.floor(end / PART_BYTES) - first + 1;
    const parts = await Promise.all(
      Array.from({ length: count }, (_, at) => this.#values.getBuffer(partKey(key, first + at))),
    );
    const bytes: Buffer[] = [];
    for (const part of parts) {
      if (part) bytes.push(part);
      if ((part?.length ?? 0) < PART_BYTES) break; // the tensor ends here
    }
    const from = start - first * PART_BYTES;
    return Buffer.concat(bytes).subarray(from, from + end - start + 1);
  }
}

function partKey(key: string, part: number): string {
  return `${key}:${part}`;
}
