/** The log of a near cache without Redis: reads a Zipf trace, and fills what it does not find. Prints memory and hits. */
import { seeded } from "../../test/support/seeded.js";
import { makeNearBuffers } from "../../src/near/near-buffers.js";
import { type KeyInBytes, NearLog } from "../../src/near/near-log.js";
import { NearMemory } from "../../src/near/near-memory.js";

export interface FillsInput {
  readonly fills: number;
  readonly keys: number;
  readonly maxBytes: number;
}

export interface FillFigures {
  /** After the first of 24 parts, when all memory is in use. */
  readonly rssBefore: number;
  readonly rss: number;
  readonly hitShare: number;
  /** Of a queue with room for the same bytes. */
  readonly fifoShare: number;
}

const EXPONENT = 0.9;
const TRACE = 2 ** 22;
const PARTS = 24;
const LEAST_BYTES = 64;
const MOST_BYTES = 1_024;
const NOW = 1;
const DEADLINE = 1_000;

const { fills, keys, maxBytes } = JSON.parse(process.argv[2]!) as FillsInput;
const random = seeded(1);

/** The keys of the reads, which are repeated from the start when they are over. */
function zipfTrace(): Uint32Array {
  const upTo = new Float64Array(keys);
  let sum = 0;
  for (let i = 0; i < keys; i++) upTo[i] = sum += (i + 1) ** -EXPONENT;
  return Uint32Array.from({ length: TRACE }, () => {
    const wanted = random() * sum;
    let [low, high] = [0, keys - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (upTo[middle]! < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  });
}

/** Keeps what was filled last. */
class FifoQueue {
  readonly #isIn = new Uint8Array(keys);
  readonly #queue = new Uint32Array(2 ** 21);
  readonly #room: number;
  #first = 0;
  #next = 0;
  #bytes = 0;

  constructor(room: number) {
    this.#room = room;
  }

  read(key: number, bytes: number): boolean {
    if (this.#isIn[key] === 1) return true;
    this.#isIn[key] = 1;
    this.#queue[this.#next++ % this.#queue.length] = key;
    this.#bytes += bytes;
    while (this.#bytes > this.#room) {
      const oldest = this.#queue[this.#first++ % this.#queue.length]!;
      this.#isIn[oldest] = 0;
      this.#bytes -= bytesOf(oldest);
    }
    return false;
  }
}

function valueBytesOf(key: number): number {
  return LEAST_BYTES + ((Math.imul(key, 0x9e3779b1) >>> 0) % (MOST_BYTES - LEAST_BYTES + 1));
}

function bytesOf(key: number): number {
  return valueBytesOf(key) + `near:${key}`.length;
}

const buffers = makeNearBuffers({
  prefixes: ["near:"],
  maxBytes,
  ownTableBytes: 0,
  maxValueBytes: MOST_BYTES,
  maxStaleMs: 250,
  maxAgeMs: 60_000,
});
const memory = new NearMemory(buffers);
const log = new NearLog(memory, buffers, 1);
const fifo = new FifoQueue(memory.segments * memory.segmentBytes);
const trace = zipfTrace();
const value = Buffer.alloc(MOST_BYTES, "x");
const ticket = { version: 0, epoch: memory.epoch };
const place: KeyInBytes = { bytes: Buffer.alloc(32), length: 0, hash: 0, bucket: 0 };

/** Whether the log has it. */
function read(key: number): boolean {
  place.length = place.bytes.write(`near:${key}`, "latin1");
  place.hash = memory.hashOf(place.bytes, place.length);
  place.bucket = memory.bucketOf(place.hash);
  if (log.find(place, memory.epoch, NOW) && log.isStill()) return true;
  log.append(place, ticket, DEADLINE, value.subarray(0, valueBytesOf(key)));
  return false;
}

let [reads, filled, fifoHits, rssBefore] = [0, 0, 0, 0];
for (; filled < fills; reads++) {
  const key = trace[reads % TRACE]!;
  if (fifo.read(key, bytesOf(key))) fifoHits++;
  if (read(key)) continue;
  filled++;
  if (filled === Math.floor(fills / PARTS)) rssBefore = collected();
}

function collected(): number {
  globalThis.gc?.();
  return process.memoryUsage().rss;
}

const figures: FillFigures = { rssBefore, rss: collected(), hitShare: 1 - filled / reads, fifoShare: fifoHits / reads };
process.stdout.write(JSON.stringify(figures));
