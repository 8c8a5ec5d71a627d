import { addressOf } from "../config/endpoint.js";
import type { Config, Endpoint } from "../config/options.js";
import { CircuitOpenError } from "../core/errors.js";
import { within } from "../core/time.js";
import { rowsOf } from "../link/ledger.js";
import { type Admission, Breaker, type BreakerState } from "./breaker.js";
import { NodeBreakers } from "./node-breakers.js";
import type { Outage } from "./outage.js";
import { type PermitKind, SharedSemaphore } from "./shared-semaphore.js";

/** One attempt that was let in, and the connection that became of it. */
export interface ConnectAttempt {
  /** Called at most once, while the attempt is under way: its socket is to be closed in this very turn. */
  onGiveWay: () => void;
  succeeded(): void;
  /** Nothing came of it, and the server is to blame: everybody else waits for a probe. */
  failed(): void;
  /** The socket is gone, or the attempt was given up. */
  closed(): void;
}

/** The gate as the connections to one server see it. */
export type ServerGate = Pick<ConnectGate, "enter" | "explain" | "masterCells" | "server" | "outage">;

/** What clients behind sentinels share: `MasterWatch` says what is in them. */
const MASTER_CELLS = 4;
const OWN_CELLS = Breaker.CELLS + MASTER_CELLS;

/** Every connection of the process enters here: within the budget, behind the breaker, a few handshakes at once. */
export class ConnectGate {
  /** Where it leads, in logs. */
  readonly server: string = "Redis";
  readonly outage: Outage;
  readonly #breaker: Breaker;
  /** Of a Cluster's nodes; the one above is then nobody's. */
  readonly #nodes: NodeBreakers | undefined;
  /** For `MasterWatch`. */
  readonly masterCells: Int32Array<SharedArrayBuffer>;
  readonly #handshakes: SharedSemaphore;
  /** None: as many connections as the threads and pools ask for. */
  readonly #sockets: SharedSemaphore | undefined;
  /** Under way in this thread. */
  readonly #attempts = new Set<ConnectAttempt>();

  /** The shared memory behind the gates of all threads; all zeros is its beginning. */
  static buffer(config: Config): SharedArrayBuffer {
    const { threads, connections } = config;
    const rows = gateRows(threads.count);
    const permitCells =
      SharedSemaphore.cells(rows, connections.connecting) + SharedSemaphore.cells(rows, connections.max ?? 0);
    const cells = OWN_CELLS + permitCells + nodeCells(config);
    return new SharedArrayBuffer(cells * Int32Array.BYTES_PER_ELEMENT);
  }

  /** The main thread's place: behind those of all the threads. */
  static mainRow({ threads }: Config): number {
    return gateRows(threads.count) - 1;
  }

  /** That of a thread's helper: two threads that wait for permits cannot share one. */
  static helperRow({ threads }: Config, row: number): number {
    return rowsOf(threads.count) + row;
  }

  /** `slot`: this thread's place in the tables. */
  constructor(buffer: SharedArrayBuffer, config: Config, row: number) {
    const { threads, connections } = config;
    const all = new Int32Array(buffer);
    const cells = all.subarray(0, all.length - nodeCells(config));
    const rows = gateRows(threads.count);
    const handshakeCells = SharedSemaphore.cells(rows, connections.connecting);
    this.#breaker = new Breaker(cells.subarray(0, Breaker.CELLS), row);
    this.outage = this.#breaker.outage;
    if (config.redis.clusterNodes) this.#nodes = new NodeBreakers(all.subarray(cells.length), row);
    this.masterCells = cells.subarray(Breaker.CELLS, OWN_CELLS);
    this.#handshakes = new SharedSemaphore(cells.subarray(OWN_CELLS, OWN_CELLS + handshakeCells), {
      rows,
      row,
      count: connections.connecting,
      isBrief: true,
    });
    if (connections.max === undefined) return;
    this.#sockets = new SharedSemaphore(cells.subarray(OWN_CELLS + handshakeCells), {
      rows,
      row,
      count: connections.max,
    });
  }

  /** Of the server; in a Cluster that of a node which is away, if one is. */
  get state(): BreakerState {
    return (this.#nodes?.open ?? this.#breaker).state;
  }

  /** Attempts under way, in all threads. */
  get connecting(): number {
    return this.#handshakes.held;
  }

  /** Whether somebody waits for a connection to become free. */
  get isWanted(): boolean {
    return this.#sockets?.isWanted ?? false;
  }

  /**
   * Calls `giveUp` while somebody in the process waits for a connection: one that idles could be given up. Returns the way
   * to stop that.
   */
  whenWanted(giveUp: () => void): () => void {
    return this.#sockets?.whenWanted(giveUp) ?? ((): void => {});
  }

  /** Waits for a place in the budget, for a handshake permit and for the breaker, at most `ms` altogether. */
  enter(kind: PermitKind, ms: number, signal: AbortSignal): Promise<ConnectAttempt> {
    return this.#enterWithin(kind, ms, signal, {
      admit: (way) => this.#admit(this.#breaker, way),
      explain: () => this.explain(),
    });
  }

  /** Why nobody gets in at the moment, if that is so. */
  explain(): CircuitOpenError | undefined {
    return explain(this.#nodes?.open ?? this.#breaker, this.#nodes ? "a node of the Cluster" : "Redis");
  }

  /** The way to one node of a Cluster, behind a breaker of its own. */
  node(endpoint: Endpoint): ServerGate {
    const breaker = this.nodeBreaker(endpoint);
    const server: Server = {
      admit: (way) => this.#admit(breaker, way),
      explain: () => explain(breaker, `node ${addressOf(endpoint)}`),
    };
    return {
      server: "a node of the Cluster",
      outage: breaker.outage,
      masterCells: this.masterCells,
      explain: server.explain,
      enter: (kind, ms, signal) => this.#enterWithin(kind, ms, signal, server),
    };
  }

  nodeBreaker(endpoint: Endpoint): Breaker {
    if (!this.#nodes) throw new Error("this gate was not made for a Cluster");
    return this.#nodes.of(endpoint);
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
  sweep(row: number): void {
    this.#sockets?.sweep(row);
    this.#handshakes.sweep(row);
    this.#breaker.sweep(row);
    this.#nodes?.sweep(row);
  }

  async #enterWithin(
    kind: PermitKind,
    ms: number,
    signal: AbortSignal,
    { admit, explain: why }: Server,
  ): Promise<ConnectAttempt> {
    const patience = new AbortController();
    const entering = this.#enter(kind, AbortSignal.any([signal, patience.signal]), admit);
    if (ms === Infinity) return entering;
    try {
      return await within(entering, ms, () => why() ?? noPermit(ms));
    } catch (error) {
      patience.abort(error);
      throw error;
    }
  }

  async #enter(kind: PermitKind, signal: AbortSignal, admit: Server["admit"]): Promise<ConnectAttempt> {
    const ends: (() => void)[] = [];
    const closed = (): void => ends.forEach((end) => end());
    try {
      const leaveSocket = await this.#sockets?.acquire(kind, signal);
      if (leaveSocket) ends.push(leaveSocket);
      const way: AttemptContext = { signal, leaveHandshake: () => {} };
      ends.push(() => way.leaveHandshake());
      const admission = await admit(way);
      ends.push(() => admission.abandoned());
      const entry: ConnectAttempt = {
        onGiveWay: () => {},
        succeeded: () => {
          this.#attempts.delete(entry);
          admission.succeeded();
          way.leaveHandshake();
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

  /**
   * The permit comes before the breaker: when Redis goes, no more than these few have been let past it. It is given back
   * while the breaker is waited for: a thread that computes meanwhile would keep it from the others, and so from a server that is back.
   */
  async #admit(breaker: Breaker, way: AttemptContext): Promise<Admission> {
    for (;;) {
      way.leaveHandshake = await this.#handshakes.acquire("main", way.signal);
      const admission = breaker.tryAdmit();
      if (admission) return admission;
      way.leaveHandshake();
      await breaker.changed(way.signal);
    }
  }
}

interface Server {
  readonly admit: (way: AttemptContext) => Promise<Admission>;
  readonly explain: () => CircuitOpenError | undefined;
}

/** Of an attempt that is being let in. */
interface AttemptContext {
  readonly signal: AbortSignal;
  leaveHandshake: () => void;
}

function explain(breaker: Breaker, who: string): CircuitOpenError | undefined {
  const { state, nextProbeMs } = breaker;
  if (state === "closed") return undefined;
  const when = nextProbeMs === 0 ? "a probe is under way" : `the next probe is in ${nextProbeMs} ms`;
  return new CircuitOpenError(`${who} is away; ${when}`, {
    outcome: "not-sent",
    nextProbeMs,
  });
}

function nodeCells({ redis }: Config): number {
  return redis.clusterNodes ? NodeBreakers.CELLS : 0;
}

function noPermit(ms: number): Error {
  return new Error(`no connection of the process's budget (connections.max) was free within ${Math.round(ms)} ms`);
}

/** For a client or thread that belongs to no manager: a gate that nobody else goes through. */
export function ownGate(config: Config): ConnectGate {
  return new ConnectGate(ConnectGate.buffer(config), config, 0);
}

/** A thread, a helper for each, and the main thread. */
function gateRows(threads: number): number {
  return 2 * rowsOf(threads) + 1;
}
