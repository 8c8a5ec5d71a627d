import { Breaker } from "./breaker.js";
import { CircuitOpenError } from "./errors.js";
import { MasterWatch } from "./master-watch.js";
import type { Config } from "./options.js";
import { type PermitKind, Permits } from "./permits.js";
import { within } from "./time.js";

export interface GateOptions {
  /** This thread's place in the tables. */
  readonly slot: number;
  /** Somebody in the process waits for a connection: one that idles could be given up. */
  readonly onWanted?: () => void;
}

/** One attempt that was let in, and the connection that became of it. */
export interface Entry {
  /** Called at most once, while the attempt is under way: its socket is to be closed in this very turn. */
  onGiveWay: () => void;
  succeeded(): void;
  /** Nothing came of it, and the server is to blame: everybody else waits for a probe. */
  failed(): void;
  /** The socket is gone, or the attempt was given up. */
  closed(): void;
}

const OWN_CELLS = Breaker.CELLS + MasterWatch.CELLS;

/** Every connection of the process enters here: within the budget, behind the breaker, a few handshakes at once. */
export class ConnectGate {
  readonly breaker: Breaker;
  /** For `MasterWatch`. */
  readonly masterCells: Int32Array<SharedArrayBuffer>;
  readonly #handshakes: Permits;
  /** None: as many connections as the threads and pools ask for. */
  readonly #sockets: Permits | undefined;
  /** Under way in this thread. */
  readonly #attempts = new Set<Entry>();

  /** The shared memory behind the gates of all threads; all zeros is its beginning. */
  static buffer({ threads, connections }: Config): SharedArrayBuffer {
    const slots = slotsOf(threads.count);
    const cells = OWN_CELLS + Permits.cells(slots, connections.connecting) + Permits.cells(slots, connections.max ?? 0);
    return new SharedArrayBuffer(cells * Int32Array.BYTES_PER_ELEMENT);
  }

  /** The main thread's place: behind those of all the threads. */
  static mainSlot({ threads }: Config): number {
    return slotsOf(threads.count) - 1;
  }

  /** That of a thread's helper: two threads that wait for permits cannot share one. */
  static helperSlot({ threads }: Config, slot: number): number {
    return rowsOf(threads.count) + slot;
  }

  constructor(buffer: SharedArrayBuffer, config: Config, { slot, onWanted }: GateOptions) {
    const { threads, connections } = config;
    const cells = new Int32Array(buffer);
    const slots = slotsOf(threads.count);
    const handshakeCells = Permits.cells(slots, connections.connecting);
    this.breaker = new Breaker(cells.subarray(0, Breaker.CELLS), slot);
    this.masterCells = cells.subarray(Breaker.CELLS, OWN_CELLS);
    this.#handshakes = new Permits(cells.subarray(OWN_CELLS, OWN_CELLS + handshakeCells), {
      slots,
      slot,
      count: connections.connecting,
    });
    if (connections.max === undefined) return;
    this.#sockets = new Permits(cells.subarray(OWN_CELLS + handshakeCells), {
      slots,
      slot,
      count: connections.max,
      ...(onWanted && { onWanted }),
    });
  }

  /** Attempts under way, in all threads, those included that wait for the breaker. */
  get connecting(): number {
    return this.#handshakes.held;
  }

  /** Whether somebody waits for a connection to become free. */
  get isWanted(): boolean {
    return this.#sockets?.isWanted ?? false;
  }

  /** Waits for a place in the budget, for a handshake permit and for the breaker, at most `ms` altogether. */
  async enter(kind: PermitKind, ms: number, signal: AbortSignal): Promise<Entry> {
    const patience = new AbortController();
    const entering = this.#enter(kind, AbortSignal.any([signal, patience.signal]));
    if (ms === Infinity) return entering;
    try {
      return await within(entering, ms, () => this.explain() ?? noPermit(ms));
    } catch (error) {
      patience.abort(error);
      throw error;
    }
  }

  /** Why nobody gets in at the moment, if that is so. */
  explain(): CircuitOpenError | undefined {
    if (this.breaker.state === "closed") return undefined;
    const { nextProbeMs } = this.breaker;
    return new CircuitOpenError(`Redis is away; the next probe is in ${nextProbeMs} ms`, {
      outcome: "not-sent",
      nextProbeMs,
    });
  }

  /**
   * This thread is blocked, and its attempts stand still: they are ended, so that others, its own helper among them, can
   * have their permits. Whoever asked for those connections tries again when the thread goes on.
   */
  giveWay(): void {
    for (const attempt of this.#attempts) {
      attempt.onGiveWay();
      attempt.closed();
    }
  }

  /** A thread, or a helper, is gone: what it held is free again. */
  sweep(slot: number): void {
    this.#sockets?.sweep(slot);
    this.#handshakes.sweep(slot);
    this.breaker.sweep(slot);
  }

  async #enter(kind: PermitKind, signal: AbortSignal): Promise<Entry> {
    const ends: (() => void)[] = [];
    const closed = (): void => ends.forEach((end) => end());
    try {
      const leaveSocket = await this.#sockets?.acquire(kind, signal);
      if (leaveSocket) ends.push(leaveSocket);
      // Before the breaker: when Redis goes, no more than these few have been let past it. One of them probes.
      const leaveHandshake = await this.#handshakes.acquire("main", signal);
      ends.push(leaveHandshake);
      const admission = await this.breaker.admit(signal);
      ends.push(() => admission.abandoned());
      const entry: Entry = {
        onGiveWay: () => {},
        succeeded: () => {
          this.#attempts.delete(entry);
          admission.succeeded();
          leaveHandshake();
        },
        failed: () => {
          admission.failed();
          closed();
        },
        closed,
      };
      ends.push(() => this.#attempts.delete(entry));
      this.#attempts.add(entry);
      return entry;
    } catch (error) {
      closed();
      throw error;
    }
  }
}

function noPermit(ms: number): Error {
  return new Error(`no connection of the process's budget (connections.max) was free within ${Math.round(ms)} ms`);
}

/** For a client or thread that belongs to no manager: a gate that nobody else goes through. */
export function ownGate(config: Config): ConnectGate {
  return new ConnectGate(ConnectGate.buffer(config), config, { slot: 0 });
}

/** A thread, a helper for each, and the main thread. */
function slotsOf(threads: number): number {
  return 2 * rowsOf(threads) + 1;
}

/** As many as the ledger has. */
function rowsOf(threads: number): number {
  return 2 * threads;
}
