import { float16Values, toFloat16 } from "./float16.js";

export type QuantizerName = "float32" | "float16" | "int8" | "uint8" | "sign";

/**
 * A way to hold rows of float32 in fewer bytes. A packed row's length is a multiple of 4, so that a block of them can
 * be viewed as 32-bit words. The words are little-endian, as on every platform of Node except s390x.
 */
export interface Quantizer {
  readonly name: QuantizerName;
  bytesPerVector(dimensions: number): number;
  /** @throws RangeError for a value that is not finite, or values that do not fill whole rows */
  encode(values: Float32Array, dimensions: number): Uint8Array<ArrayBuffer>;
  decode(packed: Uint8Array, dimensions: number): Float32Array<ArrayBuffer>;
  /**
   * Writes every row's dot product with the query into `out`, from the packed rows, which must be aligned to 4 bytes.
   * Absent if decoding the rows once is faster.
   */
  readonly dots?: (packed: Uint8Array, dimensions: number, query: Float32Array, out: Float32Array) => void;
}

/** Unchanged: no error. */
const float32: Quantizer = {
  name: "float32",
  bytesPerVector: (dimensions) => dimensions * 4,
  encode(values, dimensions) {
    countRows(values, dimensions);
    return new Uint8Array(values.slice().buffer);
  },
  decode(packed, dimensions) {
    countPacked(packed, dimensions * 4);
    return new Float32Array(copied(packed));
  },
};

/**
 * IEEE half precision. Error at most |x| · 2^-11, or 2^-25 where |x| < 2^-14; values beyond ±65 504 are held there. On
 * the first 20 000 word vectors (|x| up to 3.6): mean 0.00007, max 0.00097.
 */
const float16: Quantizer = {
  name: "float16",
  bytesPerVector: (dimensions) => roundUp(dimensions * 2),
  encode(values, dimensions) {
    const rows = countRows(values, dimensions);
    const stride = roundUp(dimensions * 2) / 2;
    const halves = new Uint16Array(rows * stride);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < dimensions; i++) halves[row * stride + i] = toFloat16(values[row * dimensions + i]!);
    }
    return new Uint8Array(halves.buffer);
  },
  decode(packed, dimensions) {
    const stride = roundUp(dimensions * 2) / 2;
    const rows = countPacked(packed, stride * 2);
    const halves = new Uint16Array(copied(packed));
    const table = float16Values();
    const values = new Float32Array(rows * dimensions);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < dimensions; i++) values[row * dimensions + i] = table[halves[row * stride + i]!]!;
    }
    return values;
  },
};

/**
 * Symmetric, with one scale per row: [scale: float32][int8 × dimensions]. Error at most scale / 2 = max|row| / 254,
 * on average half of that. On the first 20 000 word vectors: mean 0.0031, max 0.0140.
 */
const int8: Quantizer = {
  name: "int8",
  bytesPerVector: (dimensions) => 4 + roundUp(dimensions),
  encode(values, dimensions) {
    const stride = this.bytesPerVector(dimensions);
    const rows = countRows(values, dimensions);
    const packed = new Int8Array(rows * stride);
    const words = new Float32Array(packed.buffer);
    for (let row = 0; row < rows; row++) {
      const [min, max] = extremes(values, row * dimensions, dimensions);
      // The scale that will be read back: steps of the unrounded scale would drift from it.
      const scale = Math.fround(Math.max(-min, max) / 127);
      words[(row * stride) / 4] = scale;
      if (scale === 0) continue;
      for (let i = 0; i < dimensions; i++) {
        packed[row * stride + 4 + i] = clamp(Math.round(values[row * dimensions + i]! / scale), -127, 127);
      }
    }
    return new Uint8Array(packed.buffer);
  },
  decode(packed, dimensions) {
    const stride = this.bytesPerVector(dimensions);
    const rows = countPacked(packed, stride);
    const bytes = new Int8Array(copied(packed));
    const words = new Float32Array(bytes.buffer);
    const values = new Float32Array(rows * dimensions);
    for (let row = 0; row < rows; row++) {
      const scale = words[(row * stride) / 4]!;
      for (let i = 0; i < dimensions; i++) values[row * dimensions + i] = scale * bytes[row * stride + 4 + i]!;
    }
    return values;
  },
  dots(packed, dimensions, query, out) {
    const stride = 4 + roundUp(dimensions);
    const bytes = new Int8Array(packed.buffer, packed.byteOffset, packed.byteLength);
    const words = new Float32Array(packed.buffer, packed.byteOffset, packed.byteLength / 4);
    for (let row = 0, at = 0; at < bytes.length; row++, at += stride) {
      let sum = 0;
      for (let i = 0; i < dimensions; i++) sum += query[i]! * bytes[at + 4 + i]!;
      out[row] = words[at >>> 2]! * sum;
    }
  },
};

/**
 * Affine, from each row's minimum in 255 steps: [minimum: float32][step: float32][uint8 × dimensions]. Error at most
 * step / 2 = (max - min) / 510, on average half of that. On the first 20 000 word vectors: mean 0.0027, max 0.0127.
 */
const uint8: Quantizer = {
  name: "uint8",
  bytesPerVector: (dimensions) => 8 + roundUp(dimensions),
  encode(values, dimensions) {
    const stride = this.bytesPerVector(dimensions);
    const rows = countRows(values, dimensions);
    const packed = new Uint8Array(rows * stride);
    const words = new Float32Array(packed.buffer);
    for (let row = 0; row < rows; row++) {
      const [min, max] = extremes(values, row * dimensions, dimensions);
      const step = Math.fround((max - min) / 255);
      words[(row * stride) / 4] = min;
      words[(row * stride) / 4 + 1] = step;
      if (step === 0) continue;
      for (let i = 0; i < dimensions; i++) {
        packed[row * stride + 8 + i] = clamp(Math.round((values[row * dimensions + i]! - min) / step), 0, 255);
      }
    }
    return packed;
  },
  decode(packed, dimensions) {
    const stride = this.bytesPerVector(dimensions);
    const rows = countPacked(packed, stride);
    const bytes = new Uint8Array(copied(packed));
    const words = new Float32Array(bytes.buffer);
    const values = new Float32Array(rows * dimensions);
    for (let row = 0; row < rows; row++) {
      const min = words[(row * stride) / 4]!;
      const step = words[(row * stride) / 4 + 1]!;
      for (let i = 0; i < dimensions; i++) values[row * dimensions + i] = min + step * bytes[row * stride + 8 + i]!;
    }
    return values;
  },
  dots(packed, dimensions, query, out) {
    const stride = 8 + roundUp(dimensions);
    const words = new Float32Array(packed.buffer, packed.byteOffset, packed.byteLength / 4);
    let total = 0;
    for (let i = 0; i < dimensions; i++) total += query[i]!;
    for (let row = 0, at = 0; at < packed.length; row++, at += stride) {
      let sum = 0;
      for (let i = 0; i < dimensions; i++) sum += query[i]! * packed[at + 8 + i]!;
      out[row] = words[at >>> 2]! * total + words[(at >>> 2) + 1]! * sum;
    }
  },
};

/**
 * One bit per dimension, set if the value is above 0: only a row's direction is kept, roughly. Decoded, every row has
 * length 1. Its cosine with the original is ‖x‖₁ / (√dimensions · ‖x‖₂), never below 1 / √dimensions; 0.79 on average
 * for word vectors. `dots` counts the bits that differ: good for choosing candidates that are ranked again.
 */
const sign: Quantizer = {
  name: "sign",
  bytesPerVector: (dimensions) => Math.ceil(dimensions / 32) * 4,
  encode(values, dimensions) {
    const rows = countRows(values, dimensions);
    const stride = Math.ceil(dimensions / 32);
    const words = new Uint32Array(rows * stride);
    for (let row = 0; row < rows; row++) packSigns(values, row * dimensions, dimensions, words, row * stride);
    return new Uint8Array(words.buffer);
  },
  decode(packed, dimensions) {
    const stride = Math.ceil(dimensions / 32);
    const rows = countPacked(packed, stride * 4);
    const words = new Uint32Array(copied(packed));
    const values = new Float32Array(rows * dimensions);
    const length = 1 / Math.sqrt(dimensions);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < dimensions; i++) {
        const bit = (words[row * stride + (i >>> 5)]! >>> (i & 31)) & 1;
        values[row * dimensions + i] = bit ? length : -length;
      }
    }
    return values;
  },
  dots(packed, dimensions, query, out) {
    const stride = Math.ceil(dimensions / 32);
    const wanted = new Uint32Array(stride);
    packSigns(query, 0, dimensions, wanted, 0);
    const norm = Math.hypot(...query);
    const words = new Uint32Array(packed.buffer, packed.byteOffset, packed.byteLength / 4);
    for (let row = 0, at = 0; at < words.length; row++, at += stride) {
      let differing = 0;
      for (let i = 0; i < stride; i++) differing += countOnes(words[at + i]! ^ wanted[i]!);
      out[row] = norm * (1 - (2 * differing) / dimensions);
    }
  },
};

export const QUANTIZERS: Readonly<Record<QuantizerName, Quantizer>> = { float32, float16, int8, uint8, sign };

function countRows(values: Float32Array, dimensions: number): number {
  const rows = values.length / dimensions;
  if (!Number.isInteger(rows) || !Number.isInteger(dimensions)) {
    throw new RangeError(`${values.length} values do not fill rows of ${dimensions}`);
  }
  const wrong = values.findIndex((value) => !Number.isFinite(value));
  if (wrong >= 0)
    throw new RangeError(`value ${wrong % dimensions} of row ${Math.floor(wrong / dimensions)} is not finite`);
  return rows;
}

function countPacked(packed: Uint8Array, bytesPerVector: number): number {
  const rows = packed.length / bytesPerVector;
  if (!Number.isInteger(rows)) throw new RangeError(`${packed.length} bytes do not fill rows of ${bytesPerVector}`);
  return rows;
}

/** Not `slice`: a Buffer's slice shares the memory, unaligned, with the rest of its pool. */
function copied(packed: Uint8Array): ArrayBuffer {
  return new Uint8Array(packed).buffer;
}

function packSigns(values: Float32Array, from: number, dimensions: number, words: Uint32Array, at: number): void {
  for (let i = 0; i < dimensions; i++) {
    if (values[from + i]! > 0) words[at + (i >>> 5)]! |= 1 << (i & 31);
  }
}

function extremes(values: Float32Array, from: number, count: number): [min: number, max: number] {
  let min = Infinity;
  let max = -Infinity;
  for (let i = from; i < from + count; i++) {
    const value = values[i]!;
    if (value < min) min = value;
    if (value > max) max = value;
  }
  return [min, max];
}

function countOnes(word: number): number {
  let bits = word - ((word >>> 1) & 0x5555_5555);
  bits = (bits & 0x3333_3333) + ((bits >>> 2) & 0x3333_3333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

function clamp(value: number, min: number, max: number): number {
  return value < min ? min : value > max ? max : value;
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}
