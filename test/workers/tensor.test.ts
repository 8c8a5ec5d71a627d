import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BlockCache } from "../../workers/block-cache.js";
import { LazyTensor, type RangeReader } from "../../workers/lazy-tensor.js";
import { QUANTIZERS } from "../../workers/quantize.js";
import { exactCosines, SearchBlock } from "../../workers/search-block.js";
import {
  HEADER_BYTES,
  packTensor,
  readHeader,
  TensorInvalidError,
  unpackTensor,
  writeHeader,
} from "../../workers/tensor.js";
import { PART_BYTES, PartReader, partKeys } from "../../workers/tensor-parts.js";
import { TopK } from "../../workers/top-k.js";
import { startRedis } from "../support/redis-server.js";

const ALL = Object.values(QUANTIZERS);
const DIMENSIONS = 10;
const VALUES = Float32Array.from({ length: 20 * DIMENSIONS }, (_, at) => Math.sin(at));

/** The part of Redis that a lazy tensor needs; records the requested ranges. */
class Ranges implements RangeReader {
  readonly asked: string[] = [];
  readonly #bytes: Buffer;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes);
  }

  async getrangeBuffer(_key: string, start: number, end: number): Promise<Buffer> {
    this.asked.push(`${start}-${end}`);
    return this.#bytes.subarray(start, end + 1);
  }
}

function row(index: number): Float32Array {
  return VALUES.slice(index * DIMENSIONS, (index + 1) * DIMENSIONS);
}

function isTensorInvalid(error: unknown): boolean {
  return error instanceof TensorInvalidError && error.code === "TENSOR_INVALID";
}

test("a packed block describes its content and returns its rows", () => {
  for (const quantizer of ALL) {
    const { header, packed } = unpackTensor(packTensor(quantizer, VALUES, DIMENSIONS), "block");
    assert.deepEqual(
      { ...header, checksum: 0 },
      { quantizer: quantizer.name, rows: 20, dimensions: DIMENSIONS, checksum: 0 },
    );
    assert.deepEqual(packed, quantizer.encode(VALUES, DIMENSIONS));
  }
});

test("random bytes are TENSOR_INVALID, never another error", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
      assert.throws(() => unpackTensor(bytes, "block"), isTensorInvalid);
    }),
  );
});

test("one changed byte anywhere in a block is TENSOR_INVALID", () => {
  const whole = packTensor(QUANTIZERS.int8, VALUES, DIMENSIONS);
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const damaged = whole.slice();
      damaged[at]! ^= flip;
      assert.throws(() => unpackTensor(damaged, "block"), isTensorInvalid);
    }),
  );
});

test("a block cut short or grown is TENSOR_INVALID", () => {
  const whole = packTensor(QUANTIZERS.int8, VALUES, DIMENSIONS);
  for (let length = 0; length < whole.length; length++) {
    assert.throws(() => unpackTensor(whole.subarray(0, length), "block"), isTensorInvalid);
  }
  assert.throws(() => unpackTensor(Buffer.concat([whole, Buffer.of(0)]), "block"), isTensorInvalid);
});

test("a header that is intact but claims more than Redis can hold is TENSOR_INVALID before memory is asked for", () => {
  fc.assert(
    fc.property(fc.nat(2 ** 32 - 1), fc.integer({ min: 2 ** 20, max: 2 ** 32 - 1 }), (rows, dimensions) => {
      fc.pre(rows > 2 ** 12);
      const bytes = new Uint8Array(HEADER_BYTES);
      writeHeader(bytes, { quantizer: "float32", rows, dimensions, checksum: 0 });
      assert.throws(() => readHeader(bytes, "block"), isTensorInvalid);
    }),
  );
});

test("the error names the tensor and what is wrong with it", () => {
  assert.throws(() => unpackTensor(new Uint8Array(0), "words:7"), {
    code: "TENSOR_INVALID",
    message: 'tensor "words:7" has 0 bytes where a header of 32 should be',
    key: "words:7",
  });
});

test("a lazy tensor loads one row with one range, and only that row's bytes", async () => {
  const client = new Ranges(packTensor(QUANTIZERS.float32, VALUES, DIMENSIONS));
  const tensor = await LazyTensor.open(client, "block");
  assert.deepEqual(await tensor.row(3), row(3));
  assert.deepEqual(await tensor.row(-1), row(19));
  assert.deepEqual(client.asked, ["0-31", "152-191", "792-831"]);
});

test("slices have the meaning of Array's slice and cost one range", async () => {
  const client = new Ranges(packTensor(QUANTIZERS.float32, VALUES, DIMENSIONS));
  const tensor = await LazyTensor.open(client, "block");
  const indexes = Array.from({ length: 20 }, (_, index) => index);
  const bound = fc.integer({ min: -30, max: 30 });
  await fc.assert(
    fc.asyncProperty(bound, bound, async (from, to) => {
      client.asked.length = 0;
      const expected = indexes.slice(from, to);
      assert.deepEqual(await tensor.slice(from, to), Float32Array.from(expected.flatMap((index) => [...row(index)])));
      assert.equal(client.asked.length, expected.length === 0 ? 0 : 1);
    }),
  );
});

test("rows come in the requested order, whatever is loaded together", async () => {
  const client = new Ranges(packTensor(QUANTIZERS.float32, VALUES, DIMENSIONS));
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(19), { maxLength: 30 }), fc.nat(500), async (indexes, maxGapBytes) => {
      const tensor = await LazyTensor.open(client, "block", { maxGapBytes });
      assert.deepEqual(await tensor.rows(indexes), Float32Array.from(indexes.flatMap((index) => [...row(index)])));
    }),
  );
});

test("rows near each other are loaded by one range, distant ones by their own", async () => {
  const client = new Ranges(packTensor(QUANTIZERS.float32, VALUES, DIMENSIONS));
  const tensor = await LazyTensor.open(client, "block", { maxGapBytes: 80 });
  client.asked.length = 0;
  await tensor.rows([15, 0, 3, 3, 1]);
  assert.deepEqual(client.asked, ["32-191", "632-671"]);
});

test("a row that does not exist is a RangeError and sends nothing to Redis", async () => {
  const client = new Ranges(packTensor(QUANTIZERS.float32, VALUES, DIMENSIONS));
  const tensor = await LazyTensor.open(client, "block");
  for (const index of [20, -21, 0.5, Number.NaN]) await assert.rejects(tensor.row(index), RangeError);
  assert.deepEqual(client.asked, ["0-31"]);
});

test("a lazy tensor without a key, with foreign bytes, or cut short behind its header is TENSOR_INVALID", async () => {
  const whole = packTensor(QUANTIZERS.float32, VALUES, DIMENSIONS);
  await assert.rejects(LazyTensor.open(new Ranges(new Uint8Array(0)), "block"), isTensorInvalid);
  await assert.rejects(LazyTensor.open(new Ranges(new Uint8Array(100)), "block"), isTensorInvalid);
  const short = await LazyTensor.open(new Ranges(whole.subarray(0, whole.length - 1)), "block");
  await assert.rejects(short.row(19), isTensorInvalid);
  assert.deepEqual(await short.row(18), row(18));
});

test("a lazy tensor reads from a real Redis", async () => {
  const server = await startRedis();
  try {
    const redis = server.admin;
    for (const quantizer of ALL) {
      const bytes = packTensor(quantizer, VALUES, DIMENSIONS);
      await redis.set("block", Buffer.from(bytes.buffer));
      const tensor = await LazyTensor.open(redis, "block");
      const decoded = quantizer.decode(quantizer.encode(VALUES, DIMENSIONS), DIMENSIONS);
      assert.deepEqual(await tensor.slice(), decoded);
      assert.deepEqual(await tensor.rows([19, 0]), Float32Array.of(...decoded.slice(190), ...decoded.slice(0, 10)));
    }
    await assert.rejects(LazyTensor.open(redis, "none"), isTensorInvalid);
  } finally {
    await server.stop();
  }
});

test("a search block scores its rows by cosine in every precision, and rows of zeros by 0", () => {
  const values = Float32Array.of(...VALUES, ...new Float32Array(DIMENSIONS));
  const query = row(4);
  const exact = exactCosines(values, query);
  assert.ok(Math.abs(exact[4]! - 1) < 1e-6);
  assert.equal(exact[20], 0);
  for (const quantizer of ALL) {
    const scores = SearchBlock.from(packTensor(quantizer, values, DIMENSIONS), "block").cosines(query);
    const tolerance = quantizer.name === "sign" ? 1.3 : 0.02;
    for (let at = 0; at < 20; at++) {
      assert.ok(Math.abs(scores[at]! - exact[at]!) < tolerance, `${quantizer.name}: ${scores[at]} for ${exact[at]}`);
    }
    if (quantizer.name !== "sign") assert.equal(scores[20], 0);
  }
});

test("the best k are the rows that a sort would put first", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -5, max: 5 }), { maxLength: 40 }), fc.nat(45), (scores, k) => {
      const top = new TopK(k);
      scores.forEach((score, at) => top.offer(at, score));
      const order = scores.map((_, at) => at).toSorted((a, b) => scores[b]! - scores[a]! || a - b);
      const { rows, scores: kept } = top.hits();
      assert.deepEqual([...rows], order.slice(0, k));
      assert.deepEqual(
        [...kept],
        order.slice(0, k).map((at) => scores[at]),
      );
    }),
  );
});

test("concurrent readers of a block share one load, and the bytes kept stay within their bound", async () => {
  let loads = 0;
  const cache = new BlockCache<{ bytes: number; load: number }>(250);
  const get = async (key: string) => cache.get(key, async () => ({ bytes: 100, load: ++loads }));
  const both = await Promise.all([get("a"), get("a")]);
  assert.equal(both[0], both[1]);
  await get("b");
  await get("a");
  await get("c"); // over the bound: b is the least recently used
  assert.equal(cache.bytes, 200);
  await get("a");
  assert.equal(loads, 3);
  await get("b");
  assert.equal(loads, 4);
});

test("a failed load of a block is not kept", async () => {
  const cache = new BlockCache(100);
  await assert.rejects(async () => cache.get("a", () => Promise.reject(new Error("no Redis"))), /no Redis/);
  assert.deepEqual(await cache.get("a", async () => ({ bytes: 1 })), { bytes: 1 });
});

test("a tensor in parts is read as if it were under one key, also where a part is missing", async () => {
  const whole = Buffer.from(Uint8Array.from({ length: 3 * PART_BYTES + 100 }, (_, at) => at % 251));
  const parts = new Map(
    partKeys("block", whole.length).map((key, part) => [
      key,
      whole.subarray(part * PART_BYTES, (part + 1) * PART_BYTES),
    ]),
  );
  const reader = new PartReader({ getBuffer: async (key) => parts.get(key) ?? null });
  const bound = fc.nat(whole.length + PART_BYTES);
  const compare = (end: number): Promise<void> =>
    fc.assert(
      fc.asyncProperty(bound, bound, async (one, other) => {
        const [from, to] = [Math.min(one, other), Math.max(one, other)];
        const expected = whole.subarray(0, end).subarray(from, to + 1);
        assert.deepEqual(await reader.getrangeBuffer("block", from, to), expected);
      }),
    );
  assert.equal(parts.size, 4);
  await compare(whole.length);
  parts.delete("block:3");
  await compare(3 * PART_BYTES);
});
