import { abortable, sharedClock } from "../core/time.js";

/** Those who may wait: a `main` one goes first, and the last free permit is its alone. */
export type PermitKind = "main" | "spare";
const KINDS: readonly PermitKind[] = ["main", "spare"];

/** A waiter looks again after this long, should the one that ought to have woken it be gone. */
const LOOK_AGAIN_MS = 100;
/** Likewise while nobody waits here: a wake-up that is lost must not keep others from what is idle here for good. */
const LOOK_UP_MS = 1_000;
/** A waiter that has not looked for so long has a blocked loop, and would not take what it has a right to. */
const DEAF_MS = 3 * LOOK_AGAIN_MS;
/** What such an owner holds is taken from it after this, if that does no harm. */
const LOST_MS = 1_000;

const WANTED = 0;
const TICKETS = 1;
const HEADER = 2;
/** Its tickets, when it looked, and what wakes it. */
const CELLS_PER_SLOT = KINDS.length + 2;

export interface SharedSemaphoreOptions {
  readonly rows: number;
  readonly count: number;
  readonly row: number;
  readonly isBrief?: boolean;
}

interface Waiter {
  readonly ticket: number;
  readonly resolve: (release: () => void) => void;
}

/**
 * A counting semaphore in shared memory, over all threads of the process. Each permit names its owner's slot, so that a
 * dead thread's can be taken back. Strictly first come, first served within a kind: every slot publishes the ticket of
 * its longest waiter, and only the lowest ticket of all may take; it alone is woken, or the start of many threads would
 * wake each of them for every connection of the others. A slot says when it last looked: one that is blocked keeps its
 * ticket, and the others pass it by until it looks again. `isBrief`: a permit is for something short, and one more of it
 * at once does no harm, so what a blocked owner holds may be taken over.
 */
export class SharedSemaphore {
  readonly #cells: Int32Array<SharedArrayBuffer>;
  readonly #rows: number;
  readonly #count: number;
  readonly #row: number;
  readonly #waiters: Record<PermitKind, Waiter[]> = { main: [], spare: [] };
  readonly #givers = new Set<() => void>();
  readonly #isBrief: boolean;
  #held = 0;
  /** By permit: the last time that this slot took it. */
  readonly #takings: object[] = [];
  #watching = false;

  static cells(rows: number, count: number): number {
    return HEADER + rows * CELLS_PER_SLOT + count;
  }

  constructor(cells: Int32Array<SharedArrayBuffer>, { rows, count, row, isBrief = false }: SharedSemaphoreOptions) {
    this.#cells = cells;
    this.#rows = rows;
    this.#count = count;
    this.#row = row;
    this.#isBrief = isBrief;
  }

  /**
   * Calls `giveUp` when somebody waits, in whatever thread: a permit that is not needed could be given up. Returns the way
   * to stop that.
   */
  whenWanted(giveUp: () => void): () => void {
    this.#givers.add(giveUp);
    // Not in this turn: with somebody waiting already, it would call an owner who is not finished yet.
    queueMicrotask(() => void this.#watch());
    return () => this.#givers.delete(giveUp);
  }

  get held(): number {
    return this.#count - this.#free();
  }

  /** Whether anybody waits, in whatever thread. */
  get isWanted(): boolean {
    return KINDS.some((kind) => this.#first(kind) !== undefined);
  }

  /** Resolves to the way to give the permit back, idempotent. */
  async acquire(kind: PermitKind, signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    let waiter!: Waiter;
    const taken = new Promise<() => void>((resolve) => {
      waiter = { ticket: Atomics.add(this.#cells, TICKETS, 1) + 1, resolve };
    });
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

  /** Takes back what a thread that is gone held and waited for. */
  sweep(row: number): void {
    for (const kind of KINDS) Atomics.store(this.#cells, this.#ticketCell(row, kind), 0);
    for (let i = 0; i < this.#count; i++) {
      Atomics.compareExchange(this.#cells, this.#permitCell(i), row + 1, 0);
    }
    this.#announce();
  }

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

  /** It has to say that it looks: something waits here, or holds what others may take over. */
  get #isBusy(): boolean {
    return (this.#isBrief && this.#held > 0) || KINDS.some((kind) => this.#waiters[kind].length > 0);
  }

  /** While something waits here, wakes up when it may be its turn; else when anybody waits; and now and then besides. */
  async #watch(): Promise<void> {
    if (this.#watching) return;
    this.#watching = true;
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
    this.#watching = false;
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
        // Taken over meanwhile, it may be this slot's again, for somebody else.
        if (this.#takings[i] === taking) Atomics.compareExchange(this.#cells, cell, this.#row + 1, 0);
        this.#announce();
      };
    }
    return undefined;
  }

  #leave(kind: PermitKind, waiter: Waiter, taken: Promise<() => void>): void {
    const index = this.#waiters[kind].indexOf(waiter);
    // Served in the very turn of the abort: what nobody will use goes back.
    if (index === -1) void taken.then((release) => release());
    else this.#waiters[kind].splice(index, 1);
    this.#publish(kind);
  }

  #publish(kind: PermitKind): void {
    const ticket = this.#waiters[kind][0]?.ticket ?? 0;
    const cell = this.#ticketCell(this.#row, kind);
    this.#sayItLooks();
    if (Atomics.exchange(this.#cells, cell, ticket) !== ticket) this.#announce();
  }

  /** Somebody came, went, took or gave back. */
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

  /** The slot that has waited longest. */
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
    return HEADER + this.#rows * CELLS_PER_SLOT + index;
  }
}
