// The room `near` holds the near cache: values of hot keys in memory that all threads of a process share. It may import clients
// and the rooms below. Start here, with the words in which threads and keeper meet: the keeper (keeper/tracking.ts) moves the
// lease and tells of writes, every thread reads. `near-log.ts` holds the values themselves, `own-table.ts` what a thread has
// decoded, `near-cache.ts` is what tasks call, and `own-writes.ts` makes a process see its own writes at once.
import { isAhead, timeWord } from "../core/shared-time.js";
import {
  BUCKETS,
  HEADER_WORDS,
  LINE,
  type NearBuffers,
  SEED,
  SEGMENT_BYTES,
  SEGMENTS,
  WAYS,
  WORDS_PER_SEGMENT,
} from "./near-buffers.js";

/** Whether the server tells of writes. */
export const STARTING = 0;
export const TRACKING = 1;
export const OFF = 2;
export type TrackingState = typeof STARTING | typeof TRACKING | typeof OFF;

/** Why it is off. */
export const OFF_REASONS = {
  RESP3: "the connection does not speak RESP3 (redis.ioredis.protocol, or an old server)",
  INFO: "INFO is refused, or names no run_id",
  "CLIENT TRACKING": "CLIENT TRACKING is refused",
  replica: "the server is no master",
  keeper: "no keeper could be started, or none could be connected",
} as const;
export type OffReason = keyof typeof OFF_REASONS;
/** Behind the state, in its word. */
const REASON_SHIFT = 2;

/** Numbers of the keeper, which it alone writes. */
const NUMBERS = ["invalidated", "connects", "provedAt"] as const;
type NumberField = (typeof NUMBERS)[number];

const EPOCH = 0;
/** A pair: the keeper's generation, and the time until which values may be served. They are changed together. */
const LEASE = LINE;
const STATE = 2 * LINE;
const SERVER_CHANGES = STATE + 1;
const SERVER = STATE + 2; // five words
const ELSEWHERE = STATE + 8;
const FILLED = 3 * LINE;
const FIELDS = 5 * LINE; // pairs of words, for numbers
const SERVER_WORDS = 5;

/** In the pair, the word with the time: the lower half. */
const LEASE_TIME = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1 ? LEASE : LEASE + 1;

/**
 * What all threads read at each hit: the epoch, the lease, and one version for each bucket of keys. To invalidate is to add 1,
 * which any thread may do at any time, because it only drops values.
 */
export class NearMemory {
  readonly words: SharedArrayBuffer;
  readonly buckets: number;
  readonly segments: number;
  readonly segmentBytes: number;
  readonly versions: Int32Array<SharedArrayBuffer>;
  readonly index: Int32Array<SharedArrayBuffer>;
  readonly marks: Uint8Array<SharedArrayBuffer>;
  /** Four words for each segment of the log; see near-log.ts. */
  readonly segmentWords: Int32Array<SharedArrayBuffer>;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #leases: BigInt64Array<SharedArrayBuffer>;
  readonly #numbers: Float64Array<SharedArrayBuffer>;
  readonly #seed0: number;
  readonly #seed1: number;

  constructor({ words }: Pick<NearBuffers, "words">) {
    const cells = (this.#cells = new Int32Array(words));
    this.words = words;
    this.buckets = cells[BUCKETS]!;
    this.segments = cells[SEGMENTS]!;
    this.segmentBytes = cells[SEGMENT_BYTES]!;
    this.#seed0 = cells[SEED]!;
    this.#seed1 = cells[SEED + 1]!;
    this.#leases = new BigInt64Array(words);
    this.#numbers = new Float64Array(words, FIELDS * cells.BYTES_PER_ELEMENT, NUMBERS.length);
    const versions = HEADER_WORDS + this.segments * WORDS_PER_SEGMENT;
    this.segmentWords = cells.subarray(HEADER_WORDS, versions);
    this.versions = cells.subarray(versions, versions + this.buckets);
    const index = versions + this.buckets;
    const ways = this.buckets * WAYS;
    this.index = cells.subarray(index, index + ways);
    this.marks = new Uint8Array(words, (index + ways) * cells.BYTES_PER_ELEMENT, ways);
  }

  // Read by all

  get epoch(): number {
    return Atomics.load(this.#cells, EPOCH);
  }

  /** Until when values may be served, on the shared clock. 0: not at all. */
  get leaseUntil(): number {
    return Atomics.load(this.#cells, LEASE_TIME);
  }

  /** Look at the lease first, and only then at epoch and version: it was moved after they were. */
  isServing(now: number): boolean {
    const until = this.leaseUntil;
    return until !== 0 && isAhead(until, now);
  }

  get state(): TrackingState {
    return (Atomics.load(this.#cells, STATE) & (2 ** REASON_SHIFT - 1)) as TrackingState;
  }

  /** Undefined unless it is off. */
  get offReason(): OffReason | undefined {
    const word = Atomics.load(this.#cells, STATE);
    return (Object.keys(OFF_REASONS) as OffReason[])[(word >> REASON_SHIFT) - 1];
  }

  versionOf(bucket: number): number {
    return Atomics.load(this.versions, bucket);
  }

  bucketOf(hash: number): number {
    return hash & (this.buckets - 1);
  }

  /** HalfSipHash-1-3 with a seed that nobody outside of the process knows: users may choose the keys of a service. */
  hashOf(key: Uint8Array, length: number): number {
    let v0 = this.#seed0;
    let v1 = this.#seed1;
    let v2 = v0 ^ 0x6c796765;
    let v3 = v1 ^ 0x74656462;
    const whole = length & ~3;
    const rest = length - whole;
    let last = length << 24;
    if (rest > 0) last |= key[whole]!;
    if (rest > 1) last |= key[whole + 1]! << 8;
    if (rest > 2) last |= key[whole + 2]! << 16;
    for (let i = 0; i <= whole + 12; i += 4) {
      // One round for each word of the key and for its end, and then three more.
      let word = 0;
      if (i < whole) word = key[i]! | (key[i + 1]! << 8) | (key[i + 2]! << 16) | (key[i + 3]! << 24);
      else if (i === whole) word = last;
      else if (i === whole + 4) v2 ^= 0xff;
      v3 ^= word;
      v0 = (v0 + v1) | 0;
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0;
      v0 = (v0 << 16) | (v0 >>> 16);
      v2 = (v2 + v3) | 0;
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2;
      v0 = (v0 + v3) | 0;
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0;
      v2 = (v2 + v1) | 0;
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2;
      v2 = (v2 << 16) | (v2 >>> 16);
      v0 ^= word;
    }
    return v1 ^ v3;
  }

  // Dropped by any thread

  invalidate(bucket: number): void {
    Atomics.add(this.versions, bucket, 1);
  }

  flush(): void {
    Atomics.add(this.#cells, EPOCH, 1);
  }

  /** The next number in the order in which segments are taken. */
  nextInOrder(): number {
    return Atomics.add(this.#cells, FILLED, 1);
  }

  /** A connection of this process leads to another server than the keeper's. */
  foundElsewhere(): void {
    Atomics.add(this.#cells, ELSEWHERE, 1);
  }

  // Written by the keeper

  /** From now on only the keeper of the new generation can move the lease. Called before a keeper starts, and at its end. */
  nextGeneration(): number {
    for (;;) {
      const current = Atomics.load(this.#leases, LEASE / 2);
      const next = BigInt.asIntN(32, (current >> 32n) + 1n);
      const changed = Atomics.compareExchange(this.#leases, LEASE / 2, current, next << 32n);
      if (changed !== current) continue;
      if (this.state === TRACKING) this.setState(STARTING); // what was off stays off, until a keeper knows better
      return Number(next);
    }
  }

  /** False if another keeper has replaced the one of this generation. 0 ends the lease. */
  setLease(generation: number, until: number): boolean {
    const word = until === 0 ? 0n : BigInt.asUintN(32, BigInt(timeWord(until)));
    for (;;) {
      const current = Atomics.load(this.#leases, LEASE / 2);
      if (current >> 32n !== BigInt(generation)) return false;
      const next = ((current >> 32n) << 32n) | word;
      if (Atomics.compareExchange(this.#leases, LEASE / 2, current, next) === current) return true;
    }
  }

  /** Whether connections of this process were found to lead elsewhere since the last call. */
  takeElsewhere(): boolean {
    return Atomics.exchange(this.#cells, ELSEWHERE, 0) > 0;
  }

  setState(state: typeof STARTING | typeof TRACKING): void {
    Atomics.store(this.#cells, STATE, state);
  }

  setOff(reason: OffReason): void {
    const place = Object.keys(OFF_REASONS).indexOf(reason) + 1;
    Atomics.store(this.#cells, STATE, OFF | (place << REASON_SHIFT));
  }

  /** The server whose writes are told. Undefined: none. A thread that reads meanwhile finds no server. */
  setServer(server: string | undefined): void {
    // A keeper that ended in the middle has left an odd number.
    const changing = Atomics.load(this.#cells, SERVER_CHANGES) | 1;
    Atomics.store(this.#cells, SERVER_CHANGES, changing);
    const words = server === undefined ? [0, 0, 0, 0, 0] : wordsOf(server);
    for (const [i, word] of words.entries()) Atomics.store(this.#cells, SERVER + i, word);
    Atomics.store(this.#cells, SERVER_CHANGES, changing + 1);
  }

  isServer(server: string): boolean {
    const before = Atomics.load(this.#cells, SERVER_CHANGES);
    if (before % 2 !== 0) return false;
    const words = wordsOf(server);
    const isEqual = words.every((word, i) => Atomics.load(this.#cells, SERVER + i) === word);
    return isEqual && words.length === SERVER_WORDS && Atomics.load(this.#cells, SERVER_CHANGES) === before;
  }

  get(field: NumberField): number {
    return this.#numbers[NUMBERS.indexOf(field)]!;
  }

  set(field: NumberField, value: number): void {
    this.#numbers[NUMBERS.indexOf(field)] = value;
  }

  add(field: NumberField, by: number): void {
    this.#numbers[NUMBERS.indexOf(field)]! += by;
  }
}

/** The run id of a server, 160 bits, as words. */
function wordsOf(server: string): number[] {
  const bytes = Buffer.from(server, "hex");
  return Array.from({ length: bytes.length >> 2 }, (_, i) => bytes.readInt32LE(i * 4));
}
