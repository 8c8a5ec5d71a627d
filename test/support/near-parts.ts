import {
  HEADER_WORDS,
  type NearBuffers,
  SEED,
  SEGMENTS,
  WAYS,
  WORDS_PER_SEGMENT,
} from "../../src/near/near-buffers.js";
import type { KeyInBytes, NearLog, Ticket } from "../../src/near/near-log.js";
import type { NearMemory } from "../../src/near/near-memory.js";

export interface NearSizes {
  readonly segments: number;
  readonly segmentBytes: number;
  /** A power of 2. */
  readonly buckets: number;
  readonly seed?: readonly [number, number];
}

/** The memory of a near cache whose segments are so small that they are soon taken again. */
export function smallNear({ segments, segmentBytes, buckets, seed = [1, 2] }: NearSizes): NearBuffers {
  const words = HEADER_WORDS + segments * WORDS_PER_SEGMENT + buckets * (1 + WAYS);
  const cells = new Int32Array(new SharedArrayBuffer(words * Int32Array.BYTES_PER_ELEMENT + buckets * WAYS));
  cells.set(seed, SEED);
  cells.set([segments, segmentBytes, buckets], SEGMENTS);
  return { words: cells.buffer, log: new SharedArrayBuffer(segments * segmentBytes) };
}

export function placeOf(memory: NearMemory, key: string | Buffer): KeyInBytes {
  const bytes = Buffer.from(key as string);
  const hash = memory.hashOf(bytes, bytes.length);
  return { bytes, length: bytes.length, hash, bucket: memory.bucketOf(hash) };
}

export function ticketOf(memory: NearMemory, { bucket }: KeyInBytes): Ticket {
  return { version: memory.versionOf(bucket), epoch: memory.epoch };
}

/** What the log has for the key in both forms; undefined if it has nothing. */
export function lookUp(
  memory: NearMemory,
  log: NearLog,
  key: KeyInBytes,
  now: number,
): { text: string | null; bytes: Buffer | null } | undefined {
  if (!log.find(key, memory.epoch, now)) return undefined;
  const found = { text: log.text(), bytes: log.buffer() };
  return log.isStill() ? found : undefined;
}
