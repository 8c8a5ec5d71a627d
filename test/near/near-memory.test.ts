import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { loadConfig } from "../../src/config/env.js";
import { LINE, makeNearBuffers, SEED } from "../../src/near/near-buffers.js";
import { NearMemory, OFF, STARTING, TRACKING } from "../../src/near/near-memory.js";
import { smallNear } from "../support/near-parts.js";

const rotate = (word: bigint, by: bigint): bigint => ((word << by) | (word >> (32n - by))) & MASK;
const MASK = 0xffff_ffffn;

/** HalfSipHash with a result of 32 bits as its paper describes it, in numbers that do not overflow. */
function halfSipHash(key: readonly [number, number], message: Buffer, rounds: number, lastRounds: number): number {
  const [k0, k1] = key.map((half) => BigInt(half >>> 0)) as [bigint, bigint];
  const v: [bigint, bigint, bigint, bigint] = [k0, k1, k0 ^ 0x6c796765n, k1 ^ 0x74656462n];
  const mix = (a: 0 | 2, b: 1 | 3, by: bigint): void => {
    v[a] = (v[a] + v[b]) & MASK;
    v[b] = rotate(v[b], by) ^ v[a];
  };
  const round = (): void => {
    mix(0, 1, 5n);
    v[0] = rotate(v[0], 16n);
    mix(2, 3, 8n);
    mix(0, 3, 7n);
    mix(2, 1, 13n);
    v[2] = rotate(v[2], 16n);
  };
  // Zeros up to a whole word, and the length as the very last byte.
  const padded = Buffer.alloc(4 * (Math.floor(message.length / 4) + 1));
  message.copy(padded);
  padded[padded.length - 1] = message.length & 255;
  for (let at = 0; at < padded.length; at += 4) {
    const word = BigInt(padded.readUInt32LE(at));
    v[3] ^= word;
    for (let i = 0; i < rounds; i++) round();
    v[0] ^= word;
  }
  v[2] ^= 0xffn;
  for (let i = 0; i < lastRounds; i++) round();
  return Number(v[1] ^ v[3]) | 0;
}

const words = fc.tuple(fc.integer(), fc.integer());
const memoryOf = (seed: readonly [number, number], buckets = 64): NearMemory =>
  new NearMemory(smallNear({ segments: 1, segmentBytes: 4_096, buckets, seed }));

test("the reference of the hash gives the published values of HalfSipHash-2-4", () => {
  const key = [0x03020100, 0x07060504] as const;
  const published = [0x5b9f35a9, 0xb85a4727, 0x03a662fa, 0x04e7fe8a, 0x89466e2a, 0x69b6fac5, 0x23fc6358, 0xc563cf8b];
  published.push(0x8f84b8d0, 0x79e706f8, 0x3479b094, 0x50300808, 0x2f87f057, 0xff63e677, 0x7cf8ffd6, 0x972bfe74);
  for (const [length, value] of published.entries()) {
    const message = Buffer.from(Array.from({ length }, (_, i) => i));
    assert.equal(halfSipHash(key, message, 2, 4) >>> 0, value, `${length} bytes`);
  }
});

test("the hash of a key is HalfSipHash-1-3, for each length and each seed", () => {
  for (let length = 0; length <= 70; length++) {
    const bytes = fc.uint8Array({ minLength: length, maxLength: length });
    fc.assert(
      fc.property(words, bytes, fc.uint8Array({ maxLength: 3 }), (seed, made, behind) => {
        const key = Buffer.from(made);
        const expected = halfSipHash(seed, key, 1, 3);
        assert.equal(memoryOf(seed).hashOf(Buffer.concat([key, behind]), length), expected);
      }),
      { numRuns: 20, seed: 1 },
    );
  }
  const long = Buffer.alloc(1_024, "long");
  assert.equal(memoryOf([5, 6]).hashOf(long, 1_024), halfSipHash([5, 6], long, 1, 3));
});

test("keys that are alike are spread evenly over the buckets, and differently under another seed", () => {
  const buckets = 4_096;
  const perBucket = 16;
  const made = (seed: readonly [number, number]): number[] => {
    const memory = memoryOf(seed, buckets);
    return Array.from({ length: buckets * perBucket }, (_, i) => {
      const key = Buffer.from(`model:${i}`);
      return memory.bucketOf(memory.hashOf(key, key.length));
    });
  };
  const [one, other] = [made([1, 2]), made([1, 3])];
  for (const places of [one, other]) {
    const counts = Array.from({ length: buckets }, () => 0);
    for (const bucket of places) counts[bucket]!++;
    // The sum of squares is the number of buckets, give or take 90 (its deviation): a fault makes it many times larger.
    const squares = counts.reduce((sum, count) => sum + (count - perBucket) ** 2 / perBucket, 0);
    assert.ok(Math.abs(squares - buckets) < 10 * Math.sqrt(2 * buckets), `chi square ${Math.round(squares)}`);
  }
  const same = one.filter((bucket, i) => bucket === other[i]).length;
  assert.ok(same < 4 * perBucket, `${same} keys have the same bucket under both seeds`);
});

test("each near cache has a seed of its own", () => {
  const { nearCache } = loadConfig({
    env: {},
    nearCache: { prefixes: ["a:"], maxBytes: 4 << 20 },
    threads: { count: 1 },
  });
  const seeds = Array.from({ length: 3 }, () =>
    new Int32Array(makeNearBuffers(nearCache).words, SEED * 4, 2).join(" "),
  );
  assert.equal(new Set(seeds).size, 3);
});

test("a lease is moved by the keeper of the current generation only", () => {
  const memory = memoryOf([1, 2]);
  const first = memory.nextGeneration();
  assert.equal(memory.setLease(first, 1_000), true);
  assert.equal(memory.leaseUntil, 1_000);
  const second = memory.nextGeneration();
  assert.notEqual(second, first);
  assert.equal(memory.leaseUntil, 0, "a new generation begins without a lease");
  assert.equal(memory.state, STARTING);
  assert.equal(memory.setLease(first, 2_000), false);
  assert.equal(memory.setLease(first, 0), false);
  assert.equal(memory.leaseUntil, 0);
  assert.equal(memory.setLease(second, -5), true, "the clock wraps, and half of its times are below 0");
  assert.equal(memory.leaseUntil, -5);
  assert.equal(memory.setLease(second, 0), true);
  assert.equal(memory.leaseUntil, 0);
});

test("values are served up to the end of the lease, also when the clock wraps, and never without a lease", () => {
  const memory = memoryOf([1, 2]);
  const generation = memory.nextGeneration();
  for (const now of [-5, -1, 0, 1, 2 ** 31 - 1, -(2 ** 31)]) assert.equal(memory.isServing(now), false);
  for (const until of [100, -100, 1, -1, 2 ** 31 - 1, -(2 ** 31), 2 ** 31 + 50]) {
    memory.setLease(generation, until);
    assert.equal(memory.isServing((until - 1) | 0), true);
    assert.equal(memory.isServing(until | 0), false);
    assert.equal(memory.isServing((until + 1) | 0), false);
  }
});

test("a server is the tracked one only with its whole run id, and not while the id is being changed", () => {
  const memory = memoryOf([1, 2]);
  const one = "0123456789abcdef0123456789abcdef01234567";
  const other = "0123456789abcdef0123456789abcdef01234568";
  assert.equal(memory.isServer(one), false);
  memory.setServer(one);
  assert.equal(memory.isServer(one), true);
  assert.equal(memory.isServer(other), false);
  for (const odd of ["", one.slice(0, 32), "not in hex"]) assert.equal(memory.isServer(odd), false);
  const changes = new Int32Array(memory.words);
  changes[2 * LINE + 1]!++; // the keeper has begun to change it
  assert.equal(memory.isServer(one), false);
  changes[2 * LINE + 1]!++;
  assert.equal(memory.isServer(one), true);
  memory.setServer(undefined);
  assert.equal(memory.isServer(one), false);
});

test("each counter, version and state is a word of its own", () => {
  const memory = memoryOf([1, 2]);
  const names = ["invalidated", "connects", "provedAt"] as const;
  names.forEach((name, i) => memory.set(name, 1_000 * (i + 1)));
  const generation = memory.nextGeneration();
  memory.setLease(generation, 77);
  memory.setServer("f".repeat(40));
  memory.setState(TRACKING);
  for (let bucket = 0; bucket < memory.buckets; bucket++) memory.invalidate(bucket);
  memory.flush();
  memory.nextInOrder();
  memory.foundElsewhere();
  names.forEach((name, i) => assert.equal(memory.get(name), 1_000 * (i + 1)));
  memory.add("connects", 5);
  assert.equal(memory.get("connects"), 2_005);
  assert.deepEqual([memory.epoch, memory.leaseUntil, memory.state], [1, 77, TRACKING]);
  assert.ok(memory.versions.every((version) => version === 1));
  assert.ok(memory.index.every((position) => position === 0));
  assert.ok(memory.segmentWords.every((word) => word === 0));
  assert.deepEqual([memory.takeElsewhere(), memory.takeElsewhere()], [true, false]);
  memory.setOff("INFO");
  assert.deepEqual([memory.state, memory.offReason, memory.isServer("f".repeat(40))], [OFF, "INFO", true]);
});
