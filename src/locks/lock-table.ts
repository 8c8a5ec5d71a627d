// The room `locks` holds what the owner of a lock and the keeper thread share. It may import clients and the rooms below.
// Start here, with the memory in which they meet. `locker.ts` is the owner's side: it acquires and releases (by
// `lock-requests.ts`, after a wait in `thread-queues.ts`), and `keeper-link.ts` is its link to the keeper. `held-lock.ts` is the
// lock in its user's hands, `lock-scripts.ts` what runs on the server. `keeper-host.ts` starts the keeper.

import type { LockLoss } from "../core/errors.js";
import { isAhead, timeWord } from "../core/shared-time.js";

/**
 * The life of a record. The owner begins it (`ACQUIRING`) before the command is written, so that the keeper can extend the
 * lock while the owner computes and reads no reply. `LOST` is final: `heldUntil` does not rise any more.
 */
export const FREE = 0;
export const ACQUIRING = 1;
export const HELD = 2;
const RELEASING = 3;
const LOST = 4;
type LockState = typeof FREE | typeof ACQUIRING | typeof HELD | typeof RELEASING | typeof LOST;

/** The keeper extends and releases a lock of this kind. */
export const OWNED = 0;
/** Another client has acquired it and releases it: the keeper only extends it. */
export const KEPT = 1;
/**
 * A BullMQ worker fetches a job, whose lock has the record's token: which job it is, is not known before the reply is read.
 * The record's key is the list of active jobs.
 */
export const FETCHED = 2;
/** One of `limit` holders. The record's key is the key of the holders, its token the own holder. */
export const SHARED = 3;
export type LockKind = typeof OWNED | typeof KEPT | typeof FETCHED | typeof SHARED;

/** Whether the keeper releases locks of this kind, too. */
export function isOurs(kind: LockKind): boolean {
  return kind === OWNED || kind === SHARED;
}

/** The reasons for which a lock is lost by itself. */
export const LOSSES = ["expired", "gone", "maxHold", "clock"] as const satisfies readonly LockLoss[];
export type Loss = (typeof LOSSES)[number];

/** What a record says of its lock. */
export interface Lease {
  readonly kind: LockKind;
  readonly key: string | Buffer;
  readonly token: string;
  readonly ttlMs: number;
  /** Infinity if there is no limit. */
  readonly maxHoldMs: number;
  /** How many replicas have to acknowledge it. */
  readonly replicas: number;
}

const STATE_BITS = 3;
const STATE_MASK = (1 << STATE_BITS) - 1;

// The cells of the table's header.
const COUNT = 0;
const TEXT_BYTES = 1;
const ASLEEP = 2;
const WAITING = 3;
const HEADER_CELLS = 16;

// The cells of a record. HELD_UNTIL has two: the use count and the time, which are changed together.
const STATE = 0;
const LOSS = 1;
const HELD_UNTIL = 2;
const TTL = 4;
const SENT_AT = 5;
const HOLD_UNTIL = 6;
const TOKEN_BYTES = 7;
const KEY_BYTES = 8;
const KIND = 9;
const CONNECTION_BYTES = 10;
const REPLICAS = 12;
const RECORD_CELLS = 16;

const CELL_BYTES = Int32Array.BYTES_PER_ELEMENT;
const CELLS_PER_PAIR = 2;

/** In the pair HELD_UNTIL, the cell with the time: the lower half. */
const TIME_CELL = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1 ? HELD_UNTIL : HELD_UNTIL + 1;

/** How far the two clocks, of the server and of this machine, may drift apart within a ttl; and 1 ms because times are rounded. */
const DRIFT = 0.01;
const LEAST_DRIFT_MS = 3;

/** How long a lock counts as held that was extended by a command sent at `sentAt`. */
function heldUntil(sentAt: number, ttlMs: number): number {
  return timeWord(sentAt + ttlMs - Math.ceil(ttlMs * DRIFT) - LEAST_DRIFT_MS);
}

/** The locks of one thread in shared memory. Its owner begins and ends records, the keeper extends them. */
export class LockTable {
  readonly buffer: SharedArrayBuffer;
  readonly records: readonly LockRecord[];
  readonly #header: Int32Array<SharedArrayBuffer>;

  static make(count: number, textBytes: number): LockTable {
    const bytes = (HEADER_CELLS + count * RECORD_CELLS) * CELL_BYTES + count * textBytes;
    const buffer = new SharedArrayBuffer(bytes);
    new Int32Array(buffer).set([count, textBytes, 1]);
    return new LockTable(buffer);
  }

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.#header = new Int32Array(buffer, 0, HEADER_CELLS);
    const count = this.#header[COUNT]!;
    const textBytes = this.#header[TEXT_BYTES]!;
    const texts = (HEADER_CELLS + count * RECORD_CELLS) * CELL_BYTES;
    this.records = Array.from({ length: count }, (_, i) => {
      const cells = new Int32Array(buffer, (HEADER_CELLS + i * RECORD_CELLS) * CELL_BYTES, RECORD_CELLS);
      return new LockRecord(cells, Buffer.from(buffer, texts + i * textBytes, textBytes));
    });
  }

  /** Whether a lock in it is there, or on its way, and its time is not over. */
  isInUse(now: number): boolean {
    return this.records.some((record) => record.state !== FREE && isAhead(record.heldUntil, now));
  }

  /** Whatever the number of a thread's tables is, its callers that wait are counted in the first one. */
  countWaiting(by: number): void {
    Atomics.add(this.#header, WAITING, by);
  }

  /** Called by the keeper before it stops looking at the table. It must look once more after this. */
  fallAsleep(): void {
    Atomics.store(this.#header, ASLEEP, 1);
  }

  /** Whether the keeper has to be woken. True once for each time that it fell asleep. */
  wake(): boolean {
    return Atomics.load(this.#header, ASLEEP) === 1 && Atomics.exchange(this.#header, ASLEEP, 0) === 1;
  }
}

/** How many callers wait for a lock, by the memory of a table. */
export function waitingIn(buffer: SharedArrayBuffer): number {
  return Atomics.load(new Int32Array(buffer), WAITING);
}

/** One lock in shared memory. A use count, in STATE and in HELD_UNTIL, tells this use of the record from an earlier one. */
export class LockRecord {
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #pairs: BigInt64Array<SharedArrayBuffer>;
  readonly #text: Buffer;

  constructor(cells: Int32Array<SharedArrayBuffer>, text: Buffer) {
    this.#cells = cells;
    this.#pairs = new BigInt64Array(cells.buffer, cells.byteOffset, RECORD_CELLS / CELLS_PER_PAIR);
    this.#text = text;
  }

  /** The state and the use count in one number. */
  get stamp(): number {
    return Atomics.load(this.#cells, STATE);
  }

  get state(): LockState {
    return stateOf(this.stamp);
  }

  get kind(): LockKind {
    return this.#cells[KIND] as LockKind;
  }

  get ttlMs(): number {
    return this.#cells[TTL]!;
  }

  get replicas(): number {
    return this.#cells[REPLICAS]!;
  }

  /** When the latest command that extends the lock was sent. */
  get sentAt(): number {
    return Atomics.load(this.#cells, SENT_AT);
  }

  get heldUntil(): number {
    return Atomics.load(this.#cells, TIME_CELL);
  }

  get token(): string {
    return this.#text.toString("utf8", 0, this.#cells[TOKEN_BYTES]);
  }

  /** A copy. */
  get key(): Buffer {
    const start = this.#cells[TOKEN_BYTES]!;
    return Buffer.from(this.#text.subarray(start, start + this.#cells[KEY_BYTES]!));
  }

  get connection(): string {
    const start = this.#cells[TOKEN_BYTES]! + this.#cells[KEY_BYTES]!;
    return this.#text.toString("latin1", start, start + this.#cells[CONNECTION_BYTES]!);
  }

  get loss(): Loss {
    return LOSSES[Atomics.load(this.#cells, LOSS)]!;
  }

  /** Whether the lock of this stamp is held. Right at every moment, also while the keeper is blocked or gone: the clock decides. */
  isHeld(stamp: number, now: number): boolean {
    return Atomics.load(this.#cells, STATE) === stamp && isAhead(Atomics.load(this.#cells, TIME_CELL), now);
  }

  /** Whether the longest time that the lock may be held is over. */
  isOverheld(now: number): boolean {
    const limit = Atomics.load(this.#cells, HOLD_UNTIL);
    return limit !== 0 && !isAhead(limit, now);
  }

  // The owner

  /**
   * FREE → ACQUIRING. All that the keeper needs is there before the state is. `connection` has the filters of CLIENT
   * KILL that find the connection that acquires it; empty if they are not known. Returns the new stamp.
   */
  begin({ kind, key, token, ttlMs, maxHoldMs, replicas }: Lease, connection: string, now: number): number {
    const cells = this.#cells;
    const use = useOf(this.stamp) + 1;
    const stamp = stampOf(use, ACQUIRING);
    cells[KIND] = kind;
    cells[TTL] = ttlMs;
    cells[REPLICAS] = replicas;
    cells[TOKEN_BYTES] = this.#text.write(token);
    const start = cells[TOKEN_BYTES];
    cells[KEY_BYTES] = typeof key === "string" ? this.#text.write(key, start) : key.copy(this.#text, start);
    cells[CONNECTION_BYTES] = this.#text.write(connection, start + cells[KEY_BYTES], "latin1");
    Atomics.store(cells, HOLD_UNTIL, maxHoldMs === Infinity ? 0 : timeWord(now + maxHoldMs));
    // Another client's lock is extended at once, because its age is not known.
    Atomics.store(cells, SENT_AT, kind === KEPT ? (now - ttlMs) | 0 : now);
    Atomics.store(this.#pairs, HELD_UNTIL / CELLS_PER_PAIR, pairOf(stamp, this.#within(heldUntil(now, ttlMs))));
    Atomics.store(cells, STATE, stamp);
    return stamp;
  }

  /** The same acquire is sent once more, by a connection of which nothing is known here. */
  sentAgain(stamp: number, now: number): void {
    this.#cells[CONNECTION_BYTES] = 0;
    this.extend(stamp, now);
    Atomics.store(this.#cells, SENT_AT, now);
  }

  /** ACQUIRING → HELD, if its time is not over already. The stamp of the held lock, or undefined. */
  confirm(stamp: number, now: number): number | undefined {
    return isAhead(this.heldUntil, now) && this.#change(stamp, HELD) ? withState(stamp, HELD) : undefined;
  }

  /**
   * HELD → HELD of the next use: the same lock has another holder. The keeper extends it meanwhile as before. The new stamp, or
   * undefined if it was lost, or if its holder was to lose it before its ttl is over: the time that is left would be the old one.
   */
  passOn(stamp: number, maxHoldMs: number, now: number): number | undefined {
    const begun = stampOf(useOf(stamp) + 1, ACQUIRING);
    const limit = Atomics.load(this.#cells, HOLD_UNTIL);
    if (limit !== 0 && !isAhead(limit, this.heldUntil)) return undefined;
    if (!this.isHeld(stamp, now) || Atomics.compareExchange(this.#cells, STATE, stamp, begun) !== stamp)
      return undefined;
    Atomics.store(this.#cells, HOLD_UNTIL, maxHoldMs === Infinity ? 0 : timeWord(now + maxHoldMs));
    const at = HELD_UNTIL / CELLS_PER_PAIR;
    for (;;) {
      const pair = Atomics.load(this.#pairs, at);
      const next = pairOf(begun, this.#within(Number(BigInt.asIntN(32, pair))));
      if (Atomics.compareExchange(this.#pairs, at, pair, next) === pair) break;
    }
    return this.confirm(begun, now);
  }

  /** HELD → RELEASING: from now on nobody extends it. False if it was lost. */
  beginRelease(stamp: number): boolean {
    return this.#change(stamp, RELEASING);
  }

  /** The owner is done with it. */
  free(): void {
    Atomics.store(this.#cells, STATE, withState(this.stamp, FREE));
  }

  // The keeper, and the owner

  /** HELD → LOST. False if it was not held any more. */
  lose(stamp: number, loss: Loss): boolean {
    if (stateOf(stamp) !== HELD || this.stamp !== stamp) return false;
    Atomics.store(this.#cells, LOSS, LOSSES.indexOf(loss));
    return this.#change(stamp, LOST);
  }

  /** The command sent at `sentAt` has extended the lock. Says nothing of a later use of the record. */
  extend(stamp: number, sentAt: number): void {
    const at = HELD_UNTIL / CELLS_PER_PAIR;
    for (;;) {
      const pair = Atomics.load(this.#pairs, at);
      const until = this.#within(heldUntil(sentAt, this.ttlMs)); // after the load: the next holder has another limit
      const { state } = this;
      if (state !== ACQUIRING && state !== HELD) return;
      const isCurrent = pair >> 32n === pairOf(stamp, 0) >> 32n;
      if (!isCurrent || !isAhead(until, Number(BigInt.asIntN(32, pair)))) return;
      if (Atomics.compareExchange(this.#pairs, at, pair, pairOf(stamp, until)) === pair) return;
    }
  }

  /** The keeper writes a command that extends it. */
  sent(now: number): void {
    Atomics.store(this.#cells, SENT_AT, now);
  }

  /** Not later than the longest time that the lock may be held. */
  #within(until: number): number {
    const limit = Atomics.load(this.#cells, HOLD_UNTIL);
    return limit === 0 || isAhead(limit, until) ? until : limit;
  }

  #change(from: number, to: LockState): boolean {
    return Atomics.compareExchange(this.#cells, STATE, from, withState(from, to)) === from;
  }
}

export function stateOf(stamp: number): LockState {
  return (stamp & STATE_MASK) as LockState;
}

function withState(stamp: number, state: LockState): number {
  return (stamp & ~STATE_MASK) | state;
}

/** Whether two stamps of a record are of the same lock. */
export function isSameUse(one: number, other: number): boolean {
  return useOf(one) === useOf(other);
}

function useOf(stamp: number): number {
  return stamp >>> STATE_BITS;
}

function stampOf(use: number, state: LockState): number {
  return (use << STATE_BITS) | state;
}

/** The use count above, the time below. */
function pairOf(stamp: number, time: number): bigint {
  return (BigInt(useOf(stamp)) << 32n) | BigInt(time >>> 0);
}
