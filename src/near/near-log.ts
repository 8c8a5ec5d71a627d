import { isAscii, isUtf8 } from "node:buffer";
import { isAhead } from "../core/shared-time.js";
import { type NearBuffers, WAYS, WORDS_PER_SEGMENT } from "./near-buffers.js";
import type { NearMemory } from "./near-memory.js";

/** Records begin at multiples of it. */
const UNIT = 64;
const CELLS_PER_UNIT = UNIT / Int32Array.BYTES_PER_ELEMENT;
/** A longer key is not kept. */
export const MAX_KEY_BYTES = 1_024;

// The words of a segment.
const OWNER = 0; // who fills it, or one of the two below
const USE = 1; // counts how often it was taken
const HEAD = 2; // how many of its units have records
const ORDER = 3; // when it was taken
const FREE = 0;
const FULL = -1;

// The cells of a record. The key follows, and then the value, at an even offset.
const POSITION = 0; // its first unit + 1, because 0 in the index means that there is none
const HASH = 1;
const VERSION = 2;
const EPOCH = 3;
const KEY_BYTES = 4;
const VALUE_BYTES = 5;
const FORM = 6;
const DEADLINE = 7;
const HEADER_BYTES = 8 * Int32Array.BYTES_PER_ELEMENT;

// How a value is stored. Text is stored so that V8 can copy it from shared memory as it is.
const NIL = 0;
const ASCII = 1;
const LATIN1 = 2; // one byte a character, and not the bytes that the server has
const UTF16 = 3;
const BYTES = 4; // not valid UTF-8

/** A place for a key while it is looked up. */
export interface KeyInBytes {
  readonly bytes: Buffer;
  length: number;
  hash: number;
  bucket: number;
}

/** What a value was when it was asked for. It counts only as long as both are the current ones. */
export interface Ticket {
  readonly version: number;
  readonly epoch: number;
}

/**
 * The values, in a log of segments. A thread takes the oldest full segment, fills it alone and takes the next one. A record is
 * never changed in place, and its position is published after its bytes. So a reader needs no lock: it reads, and then looks
 * whether the segment was taken meanwhile.
 */
export class NearLog {
  /** Of the record that `find` has found. */
  version = 0;
  deadline = 0;
  #form = NIL;
  #valueAt = 0;
  #valueBytes = 0;
  #segment = 0;
  #use = 0;
  readonly #memory: NearMemory;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Buffer<SharedArrayBuffer>;
  readonly #unitsPerSegment: number;
  readonly #owner: number;
  readonly #fence = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  /** The segment that this thread fills. -1 before the first one. */
  #own = -1;
  #ownHead = 0;

  /** `owner` is a number above 0 that no other thread of the process has ever had. */
  constructor(memory: NearMemory, { log }: NearBuffers, owner: number) {
    this.#memory = memory;
    this.#cells = new Int32Array(log);
    this.#bytes = Buffer.from(log);
    this.#unitsPerSegment = memory.segmentBytes / UNIT;
    this.#owner = owner;
  }

  /** Whether there is a value for the key. Read it, and then ask `isStill`. */
  find(key: KeyInBytes, epoch: number, now: number): boolean {
    const { index, marks } = this.#memory;
    const { bucket, length } = key;
    const version = this.#memory.versionOf(bucket);
    const cells = this.#cells;
    for (let place = bucket * WAYS; place < (bucket + 1) * WAYS; place++) {
      const position = Atomics.load(index, place);
      if (position === 0 || !this.#enter(position)) continue;
      const at = (position - 1) * CELLS_PER_UNIT;
      if (cells[at + POSITION] !== position || !this.#isOf(position, key)) continue;
      if (cells[at + VERSION] !== version || cells[at + EPOCH] !== epoch) continue;
      const deadline = cells[at + DEADLINE]!;
      const valueBytes = cells[at + VALUE_BYTES]!;
      if (!isAhead(deadline, now)) continue;
      this.version = version;
      this.deadline = deadline;
      this.#form = cells[at + FORM]!;
      this.#valueAt = valueAt(position, length);
      this.#valueBytes = valueBytes;
      // The length may be of another record that is being written: `isStill` would tell, but only after the copy.
      const end = (this.#segment + 1) * this.#memory.segmentBytes;
      if (valueBytes < 0 || this.#valueAt + valueBytes > end) continue;
      if (marks[place] === 0) marks[place] = 1; // it is read, and kept when its segment is taken again
      return true;
    }
    return false;
  }

  /**
   * Whether what was read since `find` was one record. The sum that is not needed is a barrier: without it a processor such as
   * an ARM may read the use before it has read the bytes.
   */
  isStill(): boolean {
    Atomics.add(this.#fence, 0, 0);
    return Atomics.load(this.#memory.segmentWords, this.#segment * WORDS_PER_SEGMENT + USE) === this.#use;
  }

  /** The bytes that the found value takes, also as text. */
  get valueBytes(): number {
    return this.#valueBytes;
  }

  /** The value that was found, as text; see `isStill`. */
  text(): string | null {
    const [from, to] = [this.#valueAt, this.#valueAt + this.#valueBytes];
    switch (this.#form) {
      case NIL:
        return null;
      case UTF16:
        return this.#bytes.toString("utf16le", from, to);
      case BYTES:
        // UTF-8 is decoded from a private copy only: the decoder would look at each byte twice.
        return Buffer.from(this.#bytes.subarray(from, to)).toString();
      default:
        return this.#bytes.toString("latin1", from, to);
    }
  }

  /** A copy of the value that was found, in the bytes that the server has; see `isStill`. */
  buffer(): Buffer | null {
    if (this.#form === LATIN1 || this.#form === UTF16) return Buffer.from(this.text()!);
    if (this.#form === NIL) return null;
    return Buffer.from(this.#bytes.subarray(this.#valueAt, this.#valueAt + this.#valueBytes));
  }

  /**
   * Adds a record, which is dead from its birth if its ticket is no longer current: then there is nothing to undo. Null is a key
   * that does not exist. False if no segment is free.
   */
  append(key: KeyInBytes, ticket: Ticket, deadline: number, value: Buffer | null): boolean {
    const text = value && !isAscii(value) && isUtf8(value) ? value.toString() : undefined;
    const form = formOf(value, text);
    const valueBytes = form === UTF16 ? text!.length * 2 : form === LATIN1 ? text!.length : (value?.length ?? 0);
    const bytes = valueAt(1, key.length) + valueBytes;
    const units = Math.ceil(bytes / UNIT);
    if (!this.#makeRoom(units)) return false;
    const unit = this.#own * this.#unitsPerSegment + this.#ownHead;
    const position = unit + 1;
    const { version, epoch } = ticket;
    this.#cells.set(
      [position, key.hash, version, epoch, key.length, valueBytes, form, deadline],
      unit * CELLS_PER_UNIT,
    );
    this.#bytes.set(key.bytes.subarray(0, key.length), unit * UNIT + HEADER_BYTES);
    const at = valueAt(position, key.length);
    if (form === UTF16) this.#bytes.write(text!, at, "utf16le");
    else if (form === LATIN1) this.#bytes.write(text!, at, "latin1");
    else if (value) this.#bytes.set(value, at);
    // An older record may have begun in the last unit, and its position may still be in the index. Of its head nothing is left.
    this.#bytes.fill(0, unit * UNIT + bytes, (unit + units) * UNIT);
    this.#publish(units);
    this.#place(key, position);
    return true;
  }

  /** Others may take the segment that this thread fills. */
  close(): void {
    if (this.#own !== -1) closeSegment(this.#memory, this.#own, this.#owner);
    this.#own = -1;
  }

  /** Remembers the use of the record's segment. False if the record is not in the part of it that is filled. */
  #enter(position: number): boolean {
    const { segmentWords } = this.#memory;
    const segment = ((position - 1) / this.#unitsPerSegment) | 0;
    const word = segment * WORDS_PER_SEGMENT;
    // In this order: who takes the segment empties it first, and then counts the use.
    this.#use = Atomics.load(segmentWords, word + USE);
    this.#segment = segment;
    return position - 1 - segment * this.#unitsPerSegment < Atomics.load(segmentWords, word + HEAD);
  }

  #hasKey(at: number, key: Buffer, length: number): boolean {
    const bytes = this.#bytes;
    for (let i = 0; i < length; i++) if (bytes[at + i] !== key[i]) return false;
    return true;
  }

  #makeRoom(units: number): boolean {
    if (this.#own !== -1 && this.#ownHead + units <= this.#unitsPerSegment) return true;
    this.close();
    const taken = this.#take();
    if (taken === undefined) return false;
    this.#own = taken;
    this.#empty(taken);
    return true;
  }

  #publish(units: number): void {
    this.#ownHead += units;
    Atomics.store(this.#memory.segmentWords, this.#own * WORDS_PER_SEGMENT + HEAD, this.#ownHead);
  }

  /** The place of the key's last record, else a place whose record counts no more, else the one that was not read for longest. */
  #place(key: KeyInBytes, position: number): void {
    const { index, marks } = this.#memory;
    const first = key.bucket * WAYS;
    let own = -1;
    let free = -1;
    for (let place = first; place < first + WAYS; place++) {
      const other = Atomics.load(index, place);
      if (!this.#counts(other, key.bucket)) free = place;
      else if (this.#isOf(other, key)) {
        // A record that was kept has moved to where another place had led before.
        if (own !== -1) Atomics.store(index, own, 0);
        own = place;
      }
    }
    const chosen = own !== -1 ? own : free !== -1 ? free : this.#oldestOf(first);
    marks[chosen] = 0;
    Atomics.store(index, chosen, position);
  }

  /** Whether a record of this bucket is there that could be found now. */
  #counts(position: number, bucket: number): boolean {
    if (position === 0 || !this.#enter(position)) return false;
    const memory = this.#memory;
    const cells = this.#cells;
    const at = (position - 1) * CELLS_PER_UNIT;
    return (
      cells[at + POSITION] === position &&
      cells[at + VERSION] === memory.versionOf(bucket) &&
      cells[at + EPOCH] === memory.epoch &&
      memory.bucketOf(cells[at + HASH]!) === bucket
    );
  }

  /** Whether the record at the position has this key. */
  #isOf(position: number, { bytes, length, hash }: KeyInBytes): boolean {
    const at = (position - 1) * CELLS_PER_UNIT;
    if (this.#cells[at + HASH] !== hash || this.#cells[at + KEY_BYTES] !== length) return false;
    return this.#hasKey((position - 1) * UNIT + HEADER_BYTES, bytes, length);
  }

  #oldestOf(first: number): number {
    const { index, marks, segmentWords } = this.#memory;
    const ageOf = (place: number): number => {
      const segment = ((Atomics.load(index, place) - 1) / this.#unitsPerSegment) | 0;
      return Atomics.load(segmentWords, segment * WORDS_PER_SEGMENT + ORDER);
    };
    const places = Array.from({ length: WAYS }, (_, way) => first + way);
    const unread = places.filter((place) => marks[place] === 0);
    for (const place of places) marks[place] = 0;
    const candidates = unread.length > 0 ? unread : places;
    return candidates.reduce((oldest, place) => (((ageOf(place) - ageOf(oldest)) | 0) < 0 ? place : oldest));
  }

  /** A free segment, else the oldest full one. */
  #take(): number | undefined {
    const { segments, segmentWords } = this.#memory;
    for (;;) {
      let best = -1;
      let state = FULL;
      let order = 0;
      for (let segment = 0; segment < segments; segment++) {
        const owner = Atomics.load(segmentWords, segment * WORDS_PER_SEGMENT + OWNER);
        if (owner === FREE) {
          [best, state] = [segment, FREE];
          break;
        }
        if (owner !== FULL) continue;
        const at = Atomics.load(segmentWords, segment * WORDS_PER_SEGMENT + ORDER);
        if (best !== -1 && ((at - order) | 0) >= 0) continue;
        [best, order] = [segment, at];
      }
      if (best === -1) return undefined;
      const word = best * WORDS_PER_SEGMENT + OWNER;
      if (Atomics.compareExchange(segmentWords, word, state, this.#owner) === state) return best;
    }
  }

  /**
   * Its records are gone, but for those that were read since they were written: they move to its beginning, and fill at most half
   * of it. The order of the stores is the reader's safety: first the segment is empty, then it is another use, and only then do
   * bytes change. The load behind them is a barrier, because a processor may bring plain stores before a compare-exchange.
   */
  #empty(segment: number): void {
    const { segmentWords } = this.#memory;
    const word = segment * WORDS_PER_SEGMENT;
    const filled = Atomics.exchange(segmentWords, word + HEAD, 0);
    Atomics.add(segmentWords, word + USE, 1);
    Atomics.store(segmentWords, word + ORDER, this.#memory.nextInOrder());
    Atomics.load(segmentWords, word + USE);
    this.#ownHead = 0;
    const first = segment * this.#unitsPerSegment;
    for (let unit = first; unit < first + filled;) unit += this.#keep(unit);
  }

  /** Keeps the record if it was read, and gives its length in units. */
  #keep(unit: number): number {
    const { index, marks, epoch } = this.#memory;
    const cells = this.#cells;
    const at = unit * CELLS_PER_UNIT;
    const units = Math.ceil((valueAt(1, cells[at + KEY_BYTES]!) + cells[at + VALUE_BYTES]!) / UNIT);
    const bucket = this.#memory.bucketOf(cells[at + HASH]!);
    const isCurrent = cells[at + EPOCH] === epoch && cells[at + VERSION] === this.#memory.versionOf(bucket);
    if (!isCurrent || (this.#ownHead + units) * 2 > this.#unitsPerSegment) return units;
    for (let place = bucket * WAYS; place < (bucket + 1) * WAYS; place++) {
      if (marks[place] === 0 || Atomics.load(index, place) !== unit + 1) continue;
      const to = this.#own * this.#unitsPerSegment + this.#ownHead;
      this.#bytes.copyWithin(to * UNIT, unit * UNIT, (unit + units) * UNIT);
      cells[to * CELLS_PER_UNIT + POSITION] = to + 1;
      this.#publish(units);
      // Unless another thread has put another record there meanwhile.
      if (Atomics.compareExchange(index, place, unit + 1, to + 1) === unit + 1) marks[place] = 0;
      break;
    }
    return units;
  }
}

/** How many bytes records take, and how often a segment was emptied to be filled again. */
export function usageOf({ segments, segmentWords }: NearMemory): {
  readonly usedBytes: number;
  readonly wraps: number;
} {
  let [units, wraps] = [0, 0];
  for (let word = 0; word < segments * WORDS_PER_SEGMENT; word += WORDS_PER_SEGMENT) {
    units += Atomics.load(segmentWords, word + HEAD);
    wraps += Math.max(Atomics.load(segmentWords, word + USE) - 1, 0);
  }
  return { usedBytes: units * UNIT, wraps };
}

/** Closes what a thread was filling when it ended. */
export function closeSegments(memory: NearMemory, owner: number): void {
  for (let segment = 0; segment < memory.segments; segment++) closeSegment(memory, segment, owner);
}

function closeSegment({ segmentWords }: NearMemory, segment: number, owner: number): void {
  Atomics.compareExchange(segmentWords, segment * WORDS_PER_SEGMENT + OWNER, owner, FULL);
}

function valueAt(position: number, keyBytes: number): number {
  return (position - 1) * UNIT + HEADER_BYTES + keyBytes + (keyBytes & 1);
}

function formOf(value: Buffer | null, text: string | undefined): number {
  if (value === null) return NIL;
  if (text === undefined) return isAscii(value) ? ASCII : BYTES;
  return /[^\0-\xff]/.test(text) ? UTF16 : LATIN1;
}
