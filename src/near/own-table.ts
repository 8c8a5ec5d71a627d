import { Fifo } from "../core/fifo.js";

/** A decoded value, and what has to be current for it. */
export interface OwnEntry {
  bucket: number;
  version: number;
  epoch: number;
  deadline: number;
  /** Undefined: it was dropped. */
  value: unknown;
  /** What it takes, with its key. */
  bytes: number;
}
export type Decoded = Omit<OwnEntry, "bytes">;

/** An entry and its place take so much beside key and value, roughly. */
const ENTRY_BYTES = 160;
/** Of the values that are read while the table is full, one of so many is kept, at random. */
const ONE_OF = 4;
/** So many empty entries are kept anyway. */
const MIN_EMPTY = 1_000;

type Entries = Map<string, OwnEntry>;

/**
 * The values that a thread has decoded. The oldest goes first. An entry that is dropped stays in its Map, empty, until most are:
 * then the Map is made anew. After deletions the old tables of a Map keep what was deleted until the next full collection, which
 * made an entry cost 4 µs instead of 0.3.
 */
export class OwnTable {
  #texts: Entries = new Map();
  #objects: Entries = new Map();
  readonly #queue = new Fifo<OwnEntry>();
  readonly #maxBytes: number;
  readonly #random: () => number;
  #bytes = 0;
  #wasFull = false;

  constructor(maxBytes: number, random: () => number = Math.random) {
    this.#maxBytes = maxBytes;
    this.#random = random;
  }

  text(key: string): OwnEntry | undefined {
    return this.#texts.get(key);
  }

  object(key: string): OwnEntry | undefined {
    return this.#objects.get(key);
  }

  setText(key: string, decoded: Decoded, valueBytes: number): void {
    this.#offer(this.#texts, key, decoded, valueBytes);
  }

  setObject(key: string, decoded: Decoded, valueBytes: number): void {
    this.#offer(this.#objects, key, decoded, valueBytes);
  }

  clear(): void {
    this.#texts = new Map();
    this.#objects = new Map();
    while (this.#queue.shift());
    this.#bytes = 0;
  }

  /**
   * Where more is read than there is room for, a new value would drop one that is read before it is read again itself: of keys
   * that are read in turn, none would ever be a hit. So most of the new ones stay outside. What is read often gets in all the same.
   */
  #offer(entries: Entries, key: string, decoded: Decoded, valueBytes: number): void {
    const bytes = ENTRY_BYTES + key.length + valueBytes;
    if (bytes > this.#maxBytes) return;
    const known = entries.get(key);
    // An outdated value makes room for its successor.
    if (this.#wasFull && known?.value === undefined && this.#random() * ONE_OF >= 1) return;
    this.#set(entries, known, key, decoded, bytes);
  }

  #set(entries: Entries, known: OwnEntry | undefined, key: string, decoded: Decoded, bytes: number): void {
    if (known) {
      if (known.value === undefined) this.#queue.push(known);
      else this.#bytes -= known.bytes;
      Object.assign(known, decoded, { bytes });
    } else {
      const { bucket, version, epoch, deadline, value } = decoded;
      const made = { bucket, version, epoch, deadline, value, bytes };
      entries.set(key, made);
      this.#queue.push(made);
    }
    this.#bytes += bytes;
    while (this.#bytes > this.#maxBytes) this.#drop();
  }

  #drop(): void {
    const oldest = this.#queue.shift()!;
    oldest.value = undefined;
    this.#bytes -= oldest.bytes;
    this.#wasFull = true;
    const filled = this.#queue.size;
    if (this.#texts.size + this.#objects.size < 2 * filled + MIN_EMPTY) return;
    this.#texts = withoutEmpty(this.#texts);
    this.#objects = withoutEmpty(this.#objects);
  }
}

function withoutEmpty(entries: Entries): Entries {
  const filled: Entries = new Map();
  for (const [key, entry] of entries) if (entry.value !== undefined) filled.set(key, entry);
  return filled;
}
