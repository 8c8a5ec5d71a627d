import { QUANTIZERS } from "./quantize.js";
import { HEADER_BYTES, invalid, readHeader, type TensorHeader } from "./tensor.js";

/** The only command that a lazy tensor needs; an ioredis client has it. */
export interface RangeReader {
  getrangeBuffer(key: string, start: number, end: number): Promise<Buffer>;
}

export interface LazyTensorOptions {
  /**
   * Rows further apart than this are loaded separately. The default is the distance at which, on a loopback, the bytes
   * between them begin to cost more than another command.
   */
  readonly maxGapBytes?: number;
}

/** The first and the last row, and where they go: in the tensor's order, not the caller's. */
interface Range {
  readonly first: number;
  last: number;
}

const MAX_GAP_BYTES = 4_096;

/**
 * A tensor that stays in Redis: only the bytes of the requested rows are loaded, and decoded here. The header is
 * checked once, a row's length each time. A flipped bit within a row is not noticed (`unpackTensor` would notice it).
 */
export class LazyTensor {
  readonly header: TensorHeader;
  readonly #client: RangeReader;
  readonly #key: string;
  readonly #stride: number;
  readonly #maxGapBytes: number;

  private constructor(client: RangeReader, key: string, header: TensorHeader, maxGapBytes: number) {
    this.header = header;
    this.#client = client;
    this.#key = key;
    this.#stride = QUANTIZERS[header.quantizer].bytesPerVector(header.dimensions);
    this.#maxGapBytes = maxGapBytes;
  }

  /** Loads the header. @throws TENSOR_INVALID, also if there is no such key */
  static async open(client: RangeReader, key: string, options: LazyTensorOptions = {}): Promise<LazyTensor> {
    const header = readHeader(await client.getrangeBuffer(key, 0, HEADER_BYTES - 1), key);
    return new LazyTensor(client, key, header, options.maxGapBytes ?? MAX_GAP_BYTES);
  }

  /** One row; a negative index counts from the end. @throws RangeError, TENSOR_INVALID */
  async row(index: number): Promise<Float32Array<ArrayBuffer>> {
    return this.rows([index < 0 ? index + this.header.rows : index]);
  }

  /** The rows from `from` to before `to`, as Array's `slice` counts. @throws TENSOR_INVALID */
  async slice(from = 0, to = this.header.rows): Promise<Float32Array<ArrayBuffer>> {
    const first = clampIndex(from, this.header.rows);
    const end = clampIndex(to, this.header.rows);
    if (first >= end) return new Float32Array(0);
    return this.#decode(await this.#load({ first, last: end - 1 }));
  }

  /**
   * The rows of `indexes`, in that order. Rows near each other are loaded together, and a row that is named twice is
   * loaded once. @throws RangeError, TENSOR_INVALID
   */
  async rows(indexes: ArrayLike<number>): Promise<Float32Array<ArrayBuffer>> {
    const wanted = Array.from(indexes);
    const outside = wanted.find((index) => !Number.isInteger(index) || index < 0 || index >= this.header.rows);
    if (outside !== undefined) throw new RangeError(`no row ${outside} among ${this.header.rows}`);
    const ranges = this.#coalesce(wanted);
    const loaded = await Promise.all(ranges.map((range) => this.#load(range)));
    const packed = new Uint8Array(wanted.length * this.#stride);
    for (const [position, index] of wanted.entries()) {
      const at = findRange(ranges, index);
      const from = (index - ranges[at]!.first) * this.#stride;
      packed.set(loaded[at]!.subarray(from, from + this.#stride), position * this.#stride);
    }
    return this.#decode(packed);
  }

  #coalesce(indexes: readonly number[]): Range[] {
    const ranges: Range[] = [];
    for (const index of indexes.toSorted((a, b) => a - b)) {
      const range = ranges.at(-1);
      if (range && (index - range.last - 1) * this.#stride <= this.#maxGapBytes) range.last = index;
      else ranges.push({ first: index, last: index });
    }
    return ranges;
  }

  async #load({ first, last }: Range): Promise<Buffer> {
    const start = HEADER_BYTES + first * this.#stride;
    const end = HEADER_BYTES + (last + 1) * this.#stride;
    const bytes = await this.#client.getrangeBuffer(this.#key, start, end - 1);
    if (bytes.length === end - start) return bytes;
    throw invalid(this.#key, `ends within rows ${first} to ${last}`, { ...this.header, bytes: bytes.length });
  }

  #decode(packed: Uint8Array): Float32Array<ArrayBuffer> {
    return QUANTIZERS[this.header.quantizer].decode(packed, this.header.dimensions);
  }
}

/** The last range that begins at or before `index`; the ranges are in order and hold every requested index. */
function findRange(ranges: readonly Range[], index: number): number {
  let low = 0;
  let high = ranges.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (ranges[middle]!.first <= index) low = middle;
    else high = middle - 1;
  }
  return low;
}

function clampIndex(index: number, length: number): number {
  const absolute = Math.trunc(index) < 0 ? Math.trunc(index) + length : Math.trunc(index);
  return Math.min(Math.max(absolute, 0), length);
}
