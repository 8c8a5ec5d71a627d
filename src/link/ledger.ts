/** What a thread counts of the near cache. */
export const NEAR_FIELDS = [
  "nearOwnHits",
  "nearSharedHits",
  "nearMisses",
  "nearUnleased", // misses because nothing may be served at the moment
  "nearFills",
  "nearOutdated", // replies that were not kept: the key was written meanwhile
  "nearElsewhere", // … they came from another server than the tracked one
  "nearOversize", // … they are too large
] as const;
export type NearField = (typeof NEAR_FIELDS)[number];

/** What only a thread itself knows, in the order of the row. Each field is written by the thread, unless it says otherwise. */
export const LEDGER_FIELDS = [
  "messagesRead", // messages of the manager
  "answered", // messages with results that the thread has posted
  "acquires",
  "acquireTimeouts",
  "cacheHits",
  "reconnects",
  "open",
  "syncOpen", // written by the thread's helper
  "dedicatedOut",
  "dedicatedIdle",
  "dedicatedWaiting",
  "closedIdle", // dedicated clients by reason, from here to closedShutdown
  "closedLifetime",
  "closedDirty",
  "closedDead",
  "closedFailed",
  "closedShutdown",
  "heapMb",
  ...NEAR_FIELDS,
  "logsMade", // dropped records included
  "logsTaken", // records that the manager wrote or was told of; the only field that the manager writes
] as const;
export type LedgerField = (typeof LEDGER_FIELDS)[number];

/** The count of dedicated clients that were closed for a reason. */
export const CLOSED_FIELDS = {
  idle: "closedIdle",
  lifetime: "closedLifetime",
  dirty: "closedDirty",
  dead: "closedDead",
  failed: "closedFailed",
  shutdown: "closedShutdown",
} as const satisfies Record<string, LedgerField>;

const COLUMN = Object.fromEntries(LEDGER_FIELDS.map((field, column) => [field, column])) as Record<LedgerField, number>;

const FIELD_BYTES = LEDGER_FIELDS.length * Float64Array.BYTES_PER_ELEMENT;
/** The claim has eight bytes of its own, so that the next row's numbers stay aligned. */
const BYTES_PER_ROW = FIELD_BYTES + Float64Array.BYTES_PER_ELEMENT;

/** Twice as many rows as threads, because a replacement starts before its predecessor has ended. */
export function rowsOf(threads: number): number {
  return 2 * threads;
}

/** One row of numbers per thread in shared memory, which can be read while the thread is blocked by CPU, and after its death. */
export class Ledger {
  readonly buffer: SharedArrayBuffer;
  readonly #free: number[];

  constructor(threads: number) {
    const rows = rowsOf(threads);
    this.buffer = new SharedArrayBuffer(rows * BYTES_PER_ROW);
    this.#free = Array.from({ length: rows }, (_, row) => row);
  }

  /** An empty row for a new thread. */
  take(): number {
    const row = this.#free.shift();
    if (row === undefined) throw new Error("the ledger has no free row: more threads live than it was made for");
    this.row(row).clear();
    return row;
  }

  /** Called when the row's thread has ended. */
  free(row: number): void {
    this.#free.push(row);
  }

  row(row: number): LedgerRow {
    return new LedgerRow(this.buffer, row);
  }
}

/** Sums of fields that only grow, over all threads so far, because the rows of ended threads serve other threads. */
export class LedgerTotals {
  readonly #gone = new Map<LedgerField, number>();

  /** Called when the row's thread has ended, and before the row is free. */
  retire(row: LedgerRow): void {
    for (const field of LEDGER_FIELDS) this.#gone.set(field, (this.#gone.get(field) ?? 0) + row.get(field));
  }

  of(field: LedgerField, living: readonly LedgerRow[]): number {
    return living.reduce((sum, row) => sum + row.get(field), this.#gone.get(field) ?? 0);
  }
}

export class LedgerRow {
  readonly index: number;
  readonly #values: Float64Array<SharedArrayBuffer>;
  readonly #claimed: Int32Array<SharedArrayBuffer>;

  constructor(buffer: SharedArrayBuffer, row: number) {
    this.index = row;
    this.#values = new Float64Array(buffer, row * BYTES_PER_ROW, LEDGER_FIELDS.length);
    this.#claimed = new Int32Array(buffer, row * BYTES_PER_ROW + FIELD_BYTES, 1);
  }

  get(field: LedgerField): number {
    return this.#values[COLUMN[field]]!;
  }

  set(field: LedgerField, value: number): void {
    this.#values[COLUMN[field]] = value;
  }

  /** A function that adds 1, for hot paths in which even the lookup of the field would be felt. */
  counter(field: LedgerField): () => void {
    const values = this.#values;
    const column = COLUMN[field];
    return () => (values[column]! += 1);
  }

  add(field: LedgerField, by: number): void {
    this.#values[COLUMN[field]]! += by;
  }

  /** The number of the first message with tasks that is not claimed yet. It wraps, as Int32 does. */
  get claimed(): number {
    return Atomics.load(this.#claimed, 0);
  }

  /**
   * Whether the message with tasks of this number now belongs to the caller. The thread claims a message to run it, the manager
   * claims one to take it back from a thread that does not get to it.
   */
  claim(message: number): boolean {
    return Atomics.compareExchange(this.#claimed, 0, message, (message + 1) | 0) === message;
  }

  clear(): void {
    this.#values.fill(0);
    Atomics.store(this.#claimed, 0, 0);
  }
}
