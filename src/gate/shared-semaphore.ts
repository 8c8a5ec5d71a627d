import { sharedClock } from "../core/clock.js";
import { abortable, deferred } from "../core/waiting.js";

/** Priorities: `main` is served before `spare`, and the last free permit is reserved for `main`. */
export type PermitKind = "main" | "spare";
const KINDS: readonly PermitKind[] = ["main", "spare"];

/** A waiter looks again after this long, because the thread that ought to have woken it may be gone. */
const LOOK_AGAIN_MS = 100;
/** A thread without waiters looks this often: a lost wake-up must not keep its idle connections from others for good. */
const LOOK_UP_MS = 1_000;
/** A thread that has not looked for this long has a blocked loop, and would not take the permit that is its due. */
const DEAF_MS = 3 * LOOK_AGAIN_MS;
/** After this long a brief permit of such a thread may be taken over. */
const LOST_MS = 1_000;

const WANTED = 0;
const TICKETS = 1;
const HEADER = 2;
/** The tickets of a thread, the time when it last looked, and the cell that wakes it. */
const CELLS_PER_ROW = KINDS.length + 2;

interface SharedSemaphoreOptions {
  /** The rows of the table: one for each thread that may use the semaphore. */
  readonly rows: number;
  /** The number of permits. */
  readonly count: number;
  /** This thread's row. */
  readonly row: number;
  /** A permit is held briefly and one too many at once does no harm: a blocked owner's permit may be taken over. */
  readonly isBrief?: boolean;
}

interface Waiter {
  readonly ticket: number;
  readonly resolve: (release: () => void) => void;
}

/**
 * A counting semaphore in shared memory, for all threads of the process. Each permit names the row of its owner, so that
 * the permits of a dead thread can be taken back. Within a kind, permits go strictly to the longest waiter: every thread
 * publishes the ticket of its longest waiter, and only the lowest ticket of all may take a permit. Only that thread is
 * woken: otherwise the start of many threads would wake each of them for every connection of the others. A thread says
 * when it last looked. A blocked thread keeps its ticket, and the others pass it by until it looks again.
 */
export class SharedSemaphore {
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #rows: number;
  readonly #count: number;
  readonly #row: number;
  readonly #isBrief: boolean;
  readonly #waiters: Record<PermitKind, Waiter[]> = { main: [], spare: [] };
  readonly #givers = new Set<() => void>();
  /** How many permits this thread holds. */
  #held = 0;
  /** For each permit, an object that stands for the last time this thread took it. */
  readonly #takings: object[] = [];
  #isWatching = false;

  static cells(rows: number, count: number): number {
    return HEADER + rows * CELLS_PER_ROW + count;
  }

  constructor(cells: Int32Array<SharedArrayBuffer>, { rows, count, row, isBrief = false }: SharedSemaphoreOptions) {
    this.#cells = cells;
    this.#rows = rows;
    this.#count = count;
    this.#row = row;
    this.#isBrief = isBrief;
  }

  /**
   * Calls `giveUp` when any thread waits for a permit: the owner of a permit that is not needed can free it. Returns a
   * function that ends this.
   */
  whenWanted(giveUp: () => void): () => void {
    this.#givers.add(giveUp);
    // In a later turn, because a thread may be waiting already and the caller is not ready for `giveUp` yet.
    queueMicrotask(() => void this.#watch());
    return () => this.#givers.delete(giveUp);
  }

  /** How many permits are out, in all threads. */
  get held(): number {
    return this.#count - this.#free();
  }

  /** Whether any thread waits. */
  get isWanted(): boolean {
    return KINDS.some((kind) => this.#first(kind) !== undefined);
  }

  /** Resolves to an idempotent function that frees the permit. */
  async acquire(kind: PermitKind, signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    const { promise: taken, resolve } = deferred<() => void>();
    const waiter = { ticket: Atomics.add(this.#cells, TICKETS, 1) + 1, resolve };
    this.#waiters[kind].push(waiter);
    this.#publish(kind);
    this.#pump();
    try {
      return await abortable(taken, signal);
    } catch (error) {
      this.#leave(kind, waiter, taken);
      throw error;
    }
  }

  /** Takes back the permits and the tickets of a thread that is gone. */
  sweep(row: number): void {
    for (const kind of KINDS) Atomics.store(this.#cells, this.#ticketCell(row, kind), 0);
    for (let i = 0; i < this.#count; i++) {
      Atomics.compareExchange(this.#cells, this.#permitCell(i), row + 1, 0);
    }
    this.#announce();
  }

  /** Gives permits to this thread's waiters, as long as it is their turn. */
  #pump(): void {
    for (const kind of KINDS) {
      const waiters = this.#waiters[kind];
      while (waiters.length > 0 && this.#isNext(kind)) {
        const release = this.#take(kind === "main" ? 1 : 2);
        if (!release) break;
        waiters.shift()!.resolve(release);
        this.#publish(kind);
      }
    }
    if (this.#isBusy) void this.#watch();
  }

  /** Whether this thread must say that it looks: it has waiters, or holds permits that others may take over. */
  get #isBusy(): boolean {
    return (this.#isBrief && this.#held > 0) || KINDS.some((kind) => this.#waiters[kind].length > 0);
  }

  /** Wakes up when it may be the turn of a waiter here; without waiters, when any thread waits; and at intervals. */
  async #watch(): Promise<void> {
    if (this.#isWatching) return;
    this.#isWatching = true;
    for (;;) {
      const [wanted, turn] = [Atomics.load(this.#cells, WANTED), Atomics.load(this.#cells, this.#turnCell(this.#row))];
      this.#sayItLooks();
      this.#pump();
      if (!this.#isBusy && this.#givers.size === 0) break;
      if (this.isWanted) for (const giveUp of this.#givers) giveUp();
      const woken = this.#isBusy
        ? Atomics.waitAsync(this.#cells, this.#turnCell(this.#row), turn, LOOK_AGAIN_MS)
        : Atomics.waitAsync(this.#cells, WANTED, wanted, LOOK_UP_MS);
      await woken.value;
    }
    this.#isWatching = false;
  }

  #isNext(kind: PermitKind): boolean {
    return this.#first(kind) === this.#row && (kind === "main" || this.#first("main") === undefined);
  }

  #take(needed: number): (() => void) | undefined {
    const isFree = this.#free() >= needed;
    if (!isFree && !this.#isBrief) return undefined;
    for (let i = 0; i < this.#count; i++) {
      const cell = this.#permitCell(i);
      const owner = isFree ? 0 : Atomics.load(this.#cells, cell);
      if (!isFree && !this.#isDeaf(owner - 1, LOST_MS)) continue;
      if (Atomics.compareExchange(this.#cells, cell, owner, this.#row + 1) !== owner) continue;
      this.#held++;
      let isHeld = true;
      const taking = (this.#takings[i] = {});
      return () => {
        if (!isHeld) return;
        isHeld = false;
        this.#held--;
        // The permit may have been taken over meanwhile, and may belong to another waiter of this thread by now.
        if (this.#takings[i] === taking) Atomics.compareExchange(this.#cells, cell, this.#row + 1, 0);
        this.#announce();
      };
    }
    return undefined;
  }

  #leave(kind: PermitKind, waiter: Waiter, taken: Promise<() => void>): void {
    const index = this.#waiters[kind].indexOf(waiter);
    // A waiter that was served in the very turn of its abort gives the permit back.
    if (index === -1) void taken.then((release) => release());
    else this.#waiters[kind].splice(index, 1);
    this.#publish(kind);
  }

  /** Shows the ticket of the longest waiter to all threads. */
  #publish(kind: PermitKind): void {
    const ticket = this.#waiters[kind][0]?.ticket ?? 0;
    const cell = this.#ticketCell(this.#row, kind);
    this.#sayItLooks();
    if (Atomics.exchange(this.#cells, cell, ticket) !== ticket) this.#announce();
  }

  /** Wakes the thread whose turn it may be, after a change of waiters or permits. */
  #announce(): void {
    const next = this.#first("main") ?? this.#first("spare");
    if (next === undefined) return;
    this.#wake(WANTED);
    if (this.#free() > 0) this.#wake(this.#turnCell(next));
  }

  #wake(cell: number): void {
    Atomics.add(this.#cells, cell, 1);
    Atomics.notify(this.#cells, cell);
  }

  /** The row of the thread that has waited longest. */
  #first(kind: PermitKind): number | undefined {
    let first: number | undefined;
    let lowest = 0;
    for (let row = 0; row < this.#rows; row++) {
      const ticket = Atomics.load(this.#cells, this.#ticketCell(row, kind));
      if (ticket === 0 || (first !== undefined && ticket > lowest) || this.#isDeaf(row)) continue;
      [first, lowest] = [row, ticket];
    }
    return first;
  }

  #sayItLooks(): void {
    Atomics.store(this.#cells, this.#lookedCell(this.#row), sharedClock());
  }

  #isDeaf(row: number, ms = DEAF_MS): boolean {
    if (row === this.#row || row < 0) return false;
    return ((sharedClock() - Atomics.load(this.#cells, this.#lookedCell(row))) | 0) > ms;
  }

  #free(): number {
    let free = 0;
    for (let i = 0; i < this.#count; i++) if (Atomics.load(this.#cells, this.#permitCell(i)) === 0) free++;
    return free;
  }

  #ticketCell(row: number, kind: PermitKind): number {
    return HEADER + row * KINDS.length + KINDS.indexOf(kind);
  }

  #lookedCell(row: number): number {
    return HEADER + this.#rows * KINDS.length + row;
  }

  #turnCell(row: number): number {
    return HEADER + this.#rows * (KINDS.length + 1) + row;
  }

  #permitCell(index: number): number {
    return HEADER + this.#rows * CELLS_PER_ROW + index;
  }
}
