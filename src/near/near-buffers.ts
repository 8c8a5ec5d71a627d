import { randomBytes } from "node:crypto";
import { nearSegmentBytes } from "../config/capacity.js";
import type { NearCacheConfig } from "../config/options.js";

// The layout of a near cache's memory. It is a file of its own because the main thread makes the memory with its manager, and
// loads the rest of the room only where there is a near cache.

/** The memory of a near cache, as it crosses to other threads. */
export interface NearBuffers {
  readonly words: SharedArrayBuffer;
  readonly log: SharedArrayBuffer;
}

/** The places of a bucket. */
export const WAYS = 4;
/** Each bucket stands for so many bytes of the log, so that most buckets have one record, and an invalidation drops no other. */
const BYTES_PER_BUCKET = 1_024;

// Words that are written often have a cache line of their own, so that a write does not slow the readers of others.
export const LINE = 16;
export const SEED = 4 * LINE; // two words, written before any thread reads them
export const SEGMENTS = SEED + 2;
export const SEGMENT_BYTES = SEED + 3;
export const BUCKETS = SEED + 4;
export const HEADER_WORDS = 6 * LINE;
export const WORDS_PER_SEGMENT = 4;

export function makeNearBuffers({ maxBytes, maxValueBytes }: NearCacheConfig): NearBuffers {
  const segmentBytes = nearSegmentBytes(maxValueBytes);
  const segments = Math.floor(maxBytes / segmentBytes);
  const buckets = 2 ** Math.round(Math.log2((segments * segmentBytes) / BYTES_PER_BUCKET));
  const words = HEADER_WORDS + segments * WORDS_PER_SEGMENT + buckets * (1 + WAYS);
  // A byte for each place, with which readers mark what they have found.
  const bytes = words * Int32Array.BYTES_PER_ELEMENT + buckets * WAYS;
  const cells = new Int32Array(new SharedArrayBuffer(bytes));
  const seed = randomBytes(8);
  cells.set([seed.readInt32LE(0), seed.readInt32LE(4), segments, segmentBytes, buckets], SEED);
  return { words: cells.buffer, log: new SharedArrayBuffer(segments * segmentBytes) };
}
