/** What a calling thread asks of its helper. */
export const SYNC_KINDS = ["open", "call", "callBuffer", "pipeline", "close"] as const;
export type SyncKind = (typeof SYNC_KINDS)[number];

const BELL = 0;
const GONE = 1;
const ASKED = 2;
const KIND = 3;
const CLIENT = 4;
const ASKED_BYTES = 5;
const ANSWERED = 6;
const IS_ERROR = 7;
const ANSWERED_BYTES = 8;
const CELLS = 16;
/** Larger requests and replies go over a port. */
const DATA_BYTES = 65_536;

/** A length that says: the bytes come over the port. */
export const BY_PORT = -1;

export interface Asked {
  readonly number: number;
  readonly kind: SyncKind;
  readonly client: number;
  readonly bytes: number;
}

/**
 * The memory that a calling thread shares with its helper, and its manager: one request and its reply at a time, since
 * the thread waits for each, and one bell that both of the others can ring.
 */
export class SyncArea {
  readonly buffer: SharedArrayBuffer;
  readonly data: Buffer;
  readonly #cells: Int32Array<SharedArrayBuffer>;

  static buffer(): SharedArrayBuffer {
    return new SharedArrayBuffer(CELLS * Int32Array.BYTES_PER_ELEMENT + DATA_BYTES);
  }

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.#cells = new Int32Array(buffer, 0, CELLS);
    this.data = Buffer.from(buffer, CELLS * Int32Array.BYTES_PER_ELEMENT);
  }

  /** The request that is under way, or was last. */
  get asked(): Asked {
    const cells = this.#cells;
    return {
      number: Atomics.load(cells, ASKED),
      kind: SYNC_KINDS[cells[KIND]!]!,
      client: cells[CLIENT]!,
      bytes: cells[ASKED_BYTES]!,
    };
  }

  /** By the calling thread; returns the request's number. */
  ask(kind: SyncKind, client: number, bytes: number): number {
    const cells = this.#cells;
    cells[KIND] = SYNC_KINDS.indexOf(kind);
    cells[CLIENT] = client;
    cells[ASKED_BYTES] = bytes;
    return Atomics.add(cells, ASKED, 1) + 1;
  }

  /** By the helper. */
  answer(number: number, { isError, bytes }: { isError: boolean; bytes: number }): void {
    const cells = this.#cells;
    cells[IS_ERROR] = Number(isError);
    cells[ANSWERED_BYTES] = bytes;
    Atomics.store(cells, ANSWERED, number);
    this.#ring();
  }

  /** By whoever knows that the helper is gone, with its sockets and permits: nothing will be answered any more. */
  markGone(): void {
    Atomics.store(this.#cells, GONE, 1);
    this.#ring();
  }

  get isGone(): boolean {
    return Atomics.load(this.#cells, GONE) === 1;
  }

  /** Blocks this thread until the request is answered; `undefined` when the helper is gone or `ms` are over. */
  waitForAnswer(number: number, ms: number): { readonly isError: boolean; readonly bytes: number } | undefined {
    const cells = this.#cells;
    this.#waitUntil(() => Atomics.load(cells, ANSWERED) === number || this.isGone, ms);
    if (Atomics.load(cells, ANSWERED) !== number) return undefined;
    return { isError: cells[IS_ERROR] === 1, bytes: cells[ANSWERED_BYTES]! };
  }

  /** Blocks this thread until the helper is gone, or `ms` are over. */
  waitUntilGone(ms: number): boolean {
    return this.#waitUntil(() => this.isGone, ms);
  }

  #waitUntil(isDone: () => boolean, ms: number): boolean {
    const until = performance.now() + ms;
    for (;;) {
      const bell = Atomics.load(this.#cells, BELL);
      if (isDone()) return true;
      const leftMs = until - performance.now();
      if (leftMs <= 0) return false;
      Atomics.wait(this.#cells, BELL, bell, leftMs);
    }
  }

  #ring(): void {
    Atomics.add(this.#cells, BELL, 1);
    Atomics.notify(this.#cells, BELL);
  }
}
