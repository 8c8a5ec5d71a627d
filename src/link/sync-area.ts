import { availableParallelism } from "node:os";

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
/** 1 while the helper polls for a request. The side that sets it back to 0 decides how the next request travels. */
const LISTENING = 9;
const CELLS = 16;
/** Larger requests and replies go over a port. */
const DATA_BYTES = 65_536;

/**
 * To wake a thread takes as long as a command takes in Redis. So a thread polls for this long before it sleeps, if the last
 * request or answer came within this time. If it came later, the thread does not poll: no processor spins in vain twice in a row.
 */
const SPIN_MS = 0.3;
/** The same for a pipeline's answer, as long as the processors are not crowded. */
const PIPELINE_SPIN_MS = 1;
/** A look that is this late waited for a processor: the next CROWDED_PIPELINES pipelines are polled for SPIN_MS only. */
const LATE_MS = 0.1;
const CROWDED_PIPELINES = 32;
/** Loads between two looks at the clock, which cost much more. */
const LOOKS = 20;

/** A length that means that the bytes come over the port. */
export const BY_PORT = -1;

export interface Asked {
  readonly number: number;
  readonly kind: SyncKind;
  readonly client: number;
  readonly bytes: number;
}

/**
 * The memory that a calling thread shares with its helper and its manager. It holds one request and its reply at a time,
 * because the thread waits for each reply, and one bell, which the helper and the manager ring.
 */
export class SyncArea {
  readonly buffer: SharedArrayBuffer;
  readonly data: Buffer;
  readonly #cells: Int32Array<SharedArrayBuffer>;
  /** Whether the last message that this side waited for came within its time of polling. */
  #isQuick = false;
  #answeredAt = -Infinity;
  /** How long this side polls for the answer to its last request. */
  #spinMs = SPIN_MS;
  #crowded = 0;
  /** With one processor for both threads, polling only keeps the other thread from it: a call took 350 µs instead of 40. */
  readonly #maySpin: boolean;

  static buffer(): SharedArrayBuffer {
    return new SharedArrayBuffer(CELLS * Int32Array.BYTES_PER_ELEMENT + DATA_BYTES);
  }

  constructor(buffer: SharedArrayBuffer, processors: number = availableParallelism()) {
    this.#maySpin = processors > 1;
    this.buffer = buffer;
    this.#cells = new Int32Array(buffer, 0, CELLS);
    this.data = Buffer.from(buffer, CELLS * Int32Array.BYTES_PER_ELEMENT);
  }

  /** Called by the helper: the request that has come. */
  take(): Asked {
    const cells = this.#cells;
    this.#isQuick = performance.now() - this.#answeredAt <= SPIN_MS;
    return {
      number: Atomics.load(cells, ASKED),
      kind: SYNC_KINDS[cells[KIND]!]!,
      client: cells[CLIENT]!,
      bytes: cells[ASKED_BYTES]!,
    };
  }

  /** Called by the calling thread. Returns the request's number. The helper has to be told of it, unless it `isListening`. */
  ask(kind: SyncKind, client: number, bytes: number): number {
    const cells = this.#cells;
    cells[KIND] = SYNC_KINDS.indexOf(kind);
    cells[CLIENT] = client;
    cells[ASKED_BYTES] = bytes;
    const isLong = kind === "pipeline" && --this.#crowded < 0;
    this.#spinMs = isLong ? PIPELINE_SPIN_MS : SPIN_MS;
    return (Atomics.add(cells, ASKED, 1) + 1) | 0; // wraps, as the cell does
  }

  /** Called by the helper. */
  answer(number: number, { isError, bytes }: { isError: boolean; bytes: number }): void {
    const cells = this.#cells;
    cells[IS_ERROR] = Number(isError);
    cells[ANSWERED_BYTES] = bytes;
    Atomics.store(cells, ANSWERED, number);
    this.#ring();
    this.#answeredAt = performance.now();
  }

  /** Called by the calling thread after `ask`. True once, if the helper takes the request without being told. */
  isListening(): boolean {
    return Atomics.exchange(this.#cells, LISTENING, 0) === 1;
  }

  /** Called by the helper after an answer: polls, and tells whether the next request is here. */
  listen(): boolean {
    if (!this.#isQuick || !this.#maySpin) return false;
    Atomics.store(this.#cells, LISTENING, 1);
    this.#spin(() => Atomics.load(this.#cells, LISTENING) === 0, SPIN_MS);
    return (this.#isQuick = Atomics.exchange(this.#cells, LISTENING, 0) === 0);
  }

  /** Called when the helper is gone, with its sockets and permits: no request will be answered any more. */
  markGone(): void {
    Atomics.store(this.#cells, GONE, 1);
    this.#ring();
  }

  get isGone(): boolean {
    return Atomics.load(this.#cells, GONE) === 1;
  }

  /** Blocks this thread until the request is answered. Undefined if the helper is gone or `ms` are over. */
  waitForAnswer(number: number, ms: number): { readonly isError: boolean; readonly bytes: number } | undefined {
    const cells = this.#cells;
    const isDone = (): boolean => Atomics.load(cells, ANSWERED) === number || this.isGone;
    const startedAt = performance.now();
    if (!this.#isQuick || !this.#maySpin || !this.#spin(isDone, this.#spinMs)) this.#waitUntil(isDone, ms);
    this.#isQuick = performance.now() - startedAt <= this.#spinMs;
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

  /** Polls for `ms` at most. */
  #spin(isDone: () => boolean, ms: number): boolean {
    let lookedAt = performance.now();
    const until = lookedAt + ms;
    while (lookedAt < until) {
      for (let i = 0; i < LOOKS; i++) if (isDone()) return true;
      const now = performance.now();
      if (now - lookedAt > LATE_MS) this.#crowded = CROWDED_PIPELINES;
      lookedAt = now;
    }
    return false;
  }
}
