import { type LockRecord, LockTable } from "./lock-table.js";

/** A record, and how the keeper knows it. */
export interface Place {
  readonly record: LockRecord;
  readonly table: number;
  readonly size: Size;
  /** A release is under way for what may have been acquired: it gives the record back. */
  isInDoubt?: boolean;
}

/** The counts and bytes of the two kinds of tables: for usual keys, and for very long ones. */
const SIZES = [
  { count: 32, textBytes: 256 },
  { count: 4, textBytes: 4_800 },
] as const;
type Size = (typeof SIZES)[number];

/** The most bytes that a key and a token have together. */
export const MAX_TEXT_BYTES = SIZES[1].textBytes;

/** The records of one thread's locks. Memory is never given back, because the keeper looks at it. */
export class RecordPool {
  readonly #tables: LockTable[] = [];
  readonly #free = new Map<Size, Place[]>(SIZES.map((size) => [size, []]));
  readonly #onTable: (buffer: SharedArrayBuffer, table: number) => void;

  /** `onTable`: the keeper has to know new memory before its first use. */
  constructor(onTable: (buffer: SharedArrayBuffer, table: number) => void) {
    this.#onTable = onTable;
  }

  get buffers(): readonly SharedArrayBuffer[] {
    return this.#tables.map(({ buffer }) => buffer);
  }

  at(table: number, record: number): LockRecord {
    return this.#tables[table]!.records[record]!;
  }

  /** A free record, for so many bytes of key and token. */
  take(textBytes: number): Place {
    const size = textBytes <= SIZES[0].textBytes ? SIZES[0] : SIZES[1];
    const free = this.#free.get(size)!;
    if (free.length === 0) {
      const table = LockTable.make(size.count, size.textBytes);
      const number = this.#tables.push(table) - 1;
      this.#onTable(table.buffer, number);
      free.push(...table.records.map((record) => ({ record, table: number, size })).toReversed());
    }
    return free.pop()!;
  }

  giveBack(place: Place): void {
    const { record, table, size } = place;
    record.free();
    this.#free.get(size)!.push({ record, table, size }); // what is known of this use ends with it
  }

  /** So many callers more wait. There is a table, because the first caller has taken a place. */
  countWaiting(by: number): void {
    this.#tables[0]!.countWaiting(by);
  }

  /** Whether the keeper has to be woken for a record that was begun. */
  wake({ table }: Place): boolean {
    return this.#tables[table]!.wake();
  }
}
