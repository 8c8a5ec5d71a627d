import { QUANTIZERS, type Quantizer } from "./quantize.js";
import { unpackTensor, type Tensor } from "./tensor.js";

/** A block of rows, ready for search: packed if the quantizer can score packed rows, otherwise decoded. */
export class SearchBlock {
  readonly rows: number;
  readonly dimensions: number;
  /** The bytes that it keeps. */
  readonly bytes: number;
  readonly #quantizer: Quantizer;
  readonly #content: Uint8Array | Float32Array;
  readonly #norms: Float32Array;

  private constructor({ header, packed }: Tensor) {
    this.rows = header.rows;
    this.dimensions = header.dimensions;
    this.#quantizer = QUANTIZERS[header.quantizer];
    const values = this.#quantizer.decode(packed, this.dimensions);
    this.#norms = norms(values, this.dimensions);
    this.#content = this.#quantizer.dots ? packed : values;
    this.bytes = this.#content.byteLength + this.#norms.byteLength;
  }

  /** @throws TENSOR_INVALID */
  static from(bytes: Uint8Array, name: string): SearchBlock {
    return new SearchBlock(unpackTensor(bytes, name));
  }

  /** Every row's cosine with the query; 0 if one of them has no length. */
  cosines(query: Float32Array): Float32Array<ArrayBuffer> {
    if (query.length !== this.dimensions) {
      throw new RangeError(`a query of ${query.length} dimensions among rows of ${this.dimensions}`);
    }
    const scores = new Float32Array(this.rows);
    if (this.#content instanceof Float32Array) dots(this.#content, query, scores);
    else this.#quantizer.dots?.(this.#content, this.dimensions, query, scores);
    const length = Math.hypot(...query);
    for (let row = 0; row < scores.length; row++) scores[row]! /= this.#norms[row]! * length || Infinity;
    return scores;
  }
}

/** In double precision, row by row: the other precisions are measured by it. */
export function exactCosines(values: Float32Array, query: Float32Array): Float64Array<ArrayBuffer> {
  const scores = new Float64Array(values.length / query.length);
  const length = Math.hypot(...query);
  for (let row = 0, at = 0; row < scores.length; row++, at += query.length) {
    let dot = 0;
    let square = 0;
    for (let i = 0; i < query.length; i++) {
      const value = values[at + i]!;
      dot += value * query[i]!;
      square += value * value;
    }
    scores[row] = dot / (Math.sqrt(square) * length || Infinity);
  }
  return scores;
}

function dots(values: Float32Array, query: Float32Array, out: Float32Array): void {
  for (let row = 0, at = 0; row < out.length; row++, at += query.length) {
    let sum = 0;
    for (let i = 0; i < query.length; i++) sum += query[i]! * values[at + i]!;
    out[row] = sum;
  }
}

function norms(values: Float32Array, dimensions: number): Float32Array {
  const lengths = new Float32Array(values.length / dimensions);
  for (let row = 0, at = 0; row < lengths.length; row++, at += dimensions) {
    let sum = 0;
    for (let i = 0; i < dimensions; i++) sum += values[at + i]! ** 2;
    lengths[row] = Math.sqrt(sum);
  }
  return lengths;
}
