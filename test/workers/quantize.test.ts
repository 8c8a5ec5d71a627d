import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { float16Values, toFloat16 } from "../../workers/float16.js";
import { QUANTIZERS, type Quantizer } from "../../workers/quantize.js";

const { float32, float16, int8, uint8, sign } = QUANTIZERS;
const ALL = Object.values(QUANTIZERS);
/** What rounding scales and products to float32 adds to a bound, relative to the largest value of a row. */
const ROUNDING = 2 ** -22;

/** Rows of the same length, with values of all magnitudes that word vectors and similar data can have. */
const rowsOf = (max: number) =>
  fc.tuple(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 5 })).chain(([dimensions, rows]) =>
    fc
      .array(fc.float({ min: -Math.fround(max), max: Math.fround(max), noNaN: true }), {
        minLength: dimensions * rows,
        maxLength: dimensions * rows,
      })
      .map((values) => ({ dimensions, rows, values: Float32Array.from(values) })),
  );

function holdsWithin(quantizer: Quantizer, max: number, bound: (row: Float32Array, value: number) => number): void {
  fc.assert(
    fc.property(rowsOf(max), ({ dimensions, values }) => {
      const decoded = quantizer.decode(quantizer.encode(values, dimensions), dimensions);
      assert.equal(decoded.length, values.length);
      for (const [at, value] of values.entries()) {
        const first = Math.floor(at / dimensions) * dimensions;
        const limit = bound(values.subarray(first, first + dimensions), value);
        const error = Math.abs(decoded[at]! - value);
        assert.ok(error <= limit, `${value} came back as ${decoded[at]}: off by ${error}, allowed ${limit}`);
      }
    }),
  );
}

const largest = (row: Float32Array): number => row.reduce((max, value) => Math.max(max, Math.abs(value)), 0);

test("float32 keeps every value", () => {
  holdsWithin(float32, 1e38, () => 0);
});

test("float16 is off by at most one part in 2048, or 2^-25 near zero", () => {
  holdsWithin(float16, 65_504, (_, value) => Math.max(Math.abs(value) * 2 ** -11, 2 ** -25));
});

test("float16 holds a value beyond its range at the edge instead of making it infinite", () => {
  assert.deepEqual([...float16.decode(float16.encode(Float32Array.of(1e30, -65_520), 2), 2)], [65_504, -65_504]);
});

test("every half survives the conversion to float32 and back", () => {
  for (const [half, value] of float16Values().entries()) {
    if (Number.isFinite(value)) assert.equal(toFloat16(value), half);
  }
});

test("int8 is off by at most half a step, the row's largest magnitude / 254", () => {
  // Below about 1e-36 a step itself is not a normal float32.
  holdsWithin(int8, 1e30, (row) => largest(row) * (1 / 254 + ROUNDING) + 1e-36);
});

test("uint8 is off by at most half a step, the row's span / 510", () => {
  holdsWithin(uint8, 1e30, (row) => (Math.max(...row) - Math.min(...row)) / 510 + largest(row) * ROUNDING + 1e-36);
});

test("sign keeps the direction: a cosine of the 1-norm over sqrt(dimensions) times the 2-norm", () => {
  fc.assert(
    fc.property(rowsOf(1e3), ({ dimensions, rows, values }) => {
      const decoded = sign.decode(sign.encode(values, dimensions), dimensions);
      for (let row = 0; row < rows; row++) {
        const original = values.subarray(row * dimensions, (row + 1) * dimensions);
        const kept = decoded.subarray(row * dimensions, (row + 1) * dimensions);
        const sum = original.reduce((total, value) => total + Math.abs(value), 0);
        assert.ok(Math.abs(dot(original, kept) - sum / Math.sqrt(dimensions)) <= sum * 1e-6);
        assert.ok(Math.abs(Math.hypot(...kept) - 1) < 1e-6);
      }
    }),
  );
});

test("rows of zeros come back as zeros, and rows of one value as that value", () => {
  for (const quantizer of [float32, float16, int8, uint8]) {
    for (const value of [0, 2, -2]) {
      const values = new Float32Array(7).fill(value);
      const decoded = quantizer.decode(quantizer.encode(values, 7), 7);
      for (const back of decoded)
        assert.ok(Math.abs(back - value) < 1e-6, `${quantizer.name}: ${value} became ${back}`);
    }
  }
});

test("dot products of packed int8 and uint8 rows equal those of the decoded rows", () => {
  for (const quantizer of [int8, uint8]) {
    fc.assert(
      fc.property(rowsOf(10), fc.infiniteStream(fc.float({ min: -10, max: 10, noNaN: true })), (block, stream) => {
        const { dimensions, rows, values } = block;
        const query = Float32Array.from({ length: dimensions }, () => stream.next().value!);
        const packed = quantizer.encode(values, dimensions);
        const decoded = quantizer.decode(packed, dimensions);
        const dots = new Float32Array(rows);
        quantizer.dots!(packed, dimensions, query, dots);
        for (let row = 0; row < rows; row++) {
          const expected = dot(decoded.subarray(row * dimensions, (row + 1) * dimensions), query);
          assert.ok(Math.abs(dots[row]! - expected) < 0.02, `${quantizer.name}: ${dots[row]} for ${expected}`);
        }
      }),
    );
  }
});

test("sign bits score a row by the number of signs that it shares with the query", () => {
  const dimensions = 40;
  const query = Float32Array.from({ length: dimensions }, (_, i) => (i % 3 === 0 ? 1 : -1));
  const opposite = query.map((value) => -value);
  const half = query.map((value, i) => (i < dimensions / 2 ? value : -value));
  const packed = sign.encode(Float32Array.of(...query, ...opposite, ...half), dimensions);
  const dots = new Float32Array(3);
  sign.dots!(packed, dimensions, query, dots);
  const length = Math.sqrt(dimensions);
  for (const [row, cosine] of [1, -1, 0].entries()) assert.ok(Math.abs(dots[row]! - cosine * length) < 1e-5);
});

test("a vector of 100 dimensions takes 400, 200, 104, 108 and 16 bytes", () => {
  assert.deepEqual(
    ALL.map((quantizer) => [quantizer.name, quantizer.bytesPerVector(100)]),
    [
      ["float32", 400],
      ["float16", 200],
      ["int8", 104],
      ["uint8", 108],
      ["sign", 16],
    ],
  );
});

test("packed rows fill a multiple of 4 bytes and exactly what bytesPerVector says", () => {
  fc.assert(
    fc.property(rowsOf(10), fc.constantFrom(...ALL), ({ dimensions, rows, values }, quantizer) => {
      assert.equal(quantizer.bytesPerVector(dimensions) % 4, 0);
      assert.equal(quantizer.encode(values, dimensions).length, rows * quantizer.bytesPerVector(dimensions));
    }),
  );
});

test("packed rows are read correctly from an odd offset of a shared buffer, where Redis replies lie", () => {
  const values = Float32Array.of(1, -2, 3, -4, 5, -6);
  for (const quantizer of ALL) {
    const packed = quantizer.encode(values, 3);
    const pool = Buffer.concat([Buffer.from("odd"), packed, Buffer.from("more")]);
    assert.deepEqual(quantizer.decode(pool.subarray(3, 3 + packed.length), 3), quantizer.decode(packed, 3));
  }
});

test("values that are not finite, or do not fill whole rows, are refused", () => {
  for (const quantizer of ALL) {
    for (const wrong of [Number.NaN, Infinity, -Infinity]) {
      assert.throws(
        () => quantizer.encode(Float32Array.of(1, 2, 3, wrong), 2),
        /^RangeError: value 1 of row 1 is not finite/,
      );
    }
    assert.throws(() => quantizer.encode(new Float32Array(5), 2), RangeError);
    assert.throws(() => quantizer.decode(new Uint8Array(quantizer.bytesPerVector(2) + 1), 2), RangeError);
  }
});

function dot(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, value, at) => sum + value * b[at]!, 0);
}
