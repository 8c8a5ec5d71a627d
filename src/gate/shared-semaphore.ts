import { sharedClock } from "../core/clock.js";
import { abortable, deferred } from "../core/waiting.js";

/** Priorities: `main` is served before `spare`, and the last free permit is reserved for `main`. */
export type PermitKind = "main" | "spare";
const KINDS: readonly PermitKind[] = ["main", "spare"];

/** A waiter looks again after this long, because the thread that ought to have woken it may be gone. */
const LOOK_AGAIN_MS = 100;
/** A thread without waiters looks this often: a lost wake-up must not keep its idle connections from others for good. */
const LOOK_UP_MS = 1_000;
/** A thread that has not looked for this long has a blocked loop. It would not take a permit, so its turn is skipped. */
const DEAF_MS = 3 * LOOK_AGAIN_MS;
/** After this long a brief permit of such a thread may be taken over. */
const LOST_MS = 1_000;

const WANTED = 0;
const TICKETS = 1;
const HEADER = 2;
/** The two tickets of a thread, the time when it last looked, and the cell that wakes it. */
const CELLS_PER_ROW = 4;

type Cells = Int32Array<SharedArrayBuffer>;

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
  readonly #header: Cells;
  /** By row, the ticket of the longest waiter; 0 if there is none. */
  readonly #tickets: Readonly<Record<PermitKind, Cells>>;
  /** By row, when the thread last looked. */
  readonly #looks: Cells;
  /** By row, what the thread waits on while it has waiters. */
  readonly #turns: Cells;
  /** By permit, the row of its owner, plus 1; 0 if the permit is free. */
  readonly #permits: Cells;
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

  constructor(cells: Cells, { rows, count, row, isBrief = false }: SharedSemaphoreOptions) {
    const take = carve(cells);
    this.#header = take(HEADER);
    this.#tickets = { main: take(rows), spare: take(rows) };
    this.#looks = take(rows);
    this.#turns = take(rows);
    this.#permits = take(count);
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
    return this.#permits.length - this.#free();
  }

  /** Whether any thread waits. */
  get isWanted(): boolean {
    return KINDS.some((kind) => this.#first(kind) !== undefined);
  }

  /** Resolves to an idempotent function that frees the permit. */
  async acquire(kind: PermitKind, signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    const { promise: taken, resolve } = deferred<() => void>();
    const waiter = { ticket: Atomics.add(this.#header, TICKETS, 1) + 1, resolve };
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
    for (const kind of KINDS) Atomics.store(this.#tickets[kind], row, 0);
    for (let i = 0; i < this.#permits.length; i++) Atomics.compareExchange(this.#permits, i, row + 1, 0);
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
      const [wanted, turn] = [Atomics.load(this.#header, WANTED), Atomics.load(this.#turns, this.#row)];
      this.#sayItLooks();
      this.#pump();
      if (!this.#isBusy && this.#givers.size === 0) break;
      if (this.isWanted) for (const giveUp of this.#givers) giveUp();
      const woken = this.#isBusy
        ? Atomics.waitAsync(this.#turns, this.#row, turn, LOOK_AGAIN_MS)
        : Atomics.waitAsync(this.#header, WANTED, wanted, LOOK_UP_MS);
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
    for (let i = 0; i < this.#permits.length; i++) {
      const owner = isFree ? 0 : Atomics.load(this.#permits, i);
      if (!isFree && !this.#isDeaf(owner - 1, LOST_MS)) continue;
      if (Atomics.compareExchange(this.#permits, i, owner, this.#row + 1) !== owner) continue;
      this.#held++;
      let isHeld = true;
      const taking = (this.#takings[i] = {});
      return () => {
        if (!isHeld) return;
        isHeld = false;
        this.#held--;
        // The permit may have been taken over meanwhile, and may belong to another waiter of this thread by now.
        if (this.#takings[i] === taking) Atomics.compareExchange(this.#permits, i, this.#row + 1, 0);
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
    this.#sayItLooks();
    if (Atomics.exchange(this.#tickets[kind], this.#row, ticket) !== ticket) this.#announce();
  }

  /** Wakes the thread whose turn it may be, after a change of waiters or permits. */
  #announce(): void {
    const next = this.#first("main") ?? this.#first("spare");
    if (next === undefined) return;
    wake(this.#header, WANTED);
    if (this.#free() > 0) wake(this.#turns, next);
  }

  /** The row of the thread that has waited longest. */
  #first(kind: PermitKind): number | undefined {
    let first: number | undefined;
    let lowest = 0;
    for (let row = 0; row < this.#turns.length; row++) {
      const ticket = Atomics.load(this.#tickets[kind], row);
      if (ticket === 0 || (first !== undefined && ticket > lowest) || this.#isDeaf(row)) continue;
      [first, lowest] = [row, ticket];
    }
    return first;
  }

  #sayItLooks(): void {
    Atomics.store(this.#looks, this.#row, sharedClock());
  }

  #isDeaf(row: number, ms = DEAF_MS): boolean {
    if (row === this.#row || row < 0) return false;
    return ((sharedClock() - Atomics.load(this.#looks, row)) | 0) > ms;
  }

  #free(): number {
    let free = 0;
    for (let i = 0; i < this.#permits.length; i++) if (Atomics.load(this.#permits, i) === 0) free++;
    return free;
  }
}

/** Cuts cells off the front of `all`, call by call. */
export function carve(all: Cells): (cells: number) => Cells {
  let taken = 0;
  return (cells) => all.subarray(taken, (taken += cells));
}

function wake(cells: Cells, at: number): void {
  Atomics.add(cells, at, 1);
  Atomics.notify(cells, at);
}
