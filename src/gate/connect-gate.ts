/**
 * The room `gate` answers one question: may a socket be opened now? It imports core, config and link. Start here: every
 * connection of the process enters through a `ConnectGate`, which asks shared memory, so that all threads count together.
 *
 * A permit's life. An attempt to connect takes two permits, in this order:
 * 1. A connection permit (`connections.max`; without it there is none). The attempt holds it, then the socket does. It is
 *    freed by `closed()`: when the socket has closed, or when the attempt failed or was given up. Nobody takes it from a
 *    blocked thread, because its sockets are still open. The owner of an idle socket frees it early (`whenWanted`).
 * 2. A handshake permit (`connections.connecting`). It is held until the connection has `succeeded()`, or the attempt has
 *    ended. It is freed while the attempt waits for the breaker. Another thread may take it over from a blocked one.
 * `giveWay()` frees both for all attempts of a blocked thread; `sweep()` frees all permits of a thread that has ended.
 */
import { addressOf } from "../config/endpoint.js";
import type { Config, Endpoint } from "../config/options.js";
import { CircuitOpenError } from "../core/errors.js";
import { onAbort, within } from "../core/waiting.js";
import { rowsOf } from "../link/ledger.js";
import { Breaker, type BreakerPass, type BreakerState, NodeBreakers, type Outage } from "./breaker.js";
import { carve, type PermitKind, SharedSemaphore } from "./shared-semaphore.js";

/** An attempt to connect that was let in, and the connection that comes of it. */
export interface ConnectAttempt {
  /** Called at most once, while the attempt is under way: its owner must close the socket before this returns. */
  onGiveWay: () => void;
  succeeded(): void;
  /** The attempt failed and the server is to blame: all other attempts wait for a probe. */
  failed(): void;
  /** The socket is gone, or the attempt was given up. */
  closed(): void;
}

/** What the connections to one server see of the gate. */
export type ServerGate = Pick<ConnectGate, "enter" | "explain" | "masterCells" | "server" | "outage">;

/** What clients behind sentinels share; `FailoverMonitor` says what is in the cells. */
const MASTER_CELLS = 4;

/** Lets connections in: within the process's budget, behind the breaker, and a few handshakes at once. */
export class ConnectGate {
  /** What the gate leads to, in logs. */
  readonly server: string = "Redis";
  readonly outage: Outage;
  /** The state of `FailoverMonitor`, shared by all threads. */
  readonly masterCells: Int32Array<SharedArrayBuffer>;
  /** Of the server; a Cluster uses a breaker for each node instead. */
  readonly #breaker: Breaker;
  readonly #nodes: NodeBreakers | undefined;
  readonly #handshakes: SharedSemaphore;
  /** Undefined without `connections.max`: threads and pools then open as many connections as they ask for. */
  readonly #sockets: SharedSemaphore | undefined;
  /** The attempts that are under way in this thread. */
  readonly #attempts = new Set<ConnectAttempt>();

  /** The shared memory behind the gates of all threads. It begins as all zeros. */
  static buffer({ threads, connections, redis }: Config): SharedArrayBuffer {
    const rows = gateRows(threads.count);
    const permitCells =
      SharedSemaphore.cells(rows, connections.connecting) + SharedSemaphore.cells(rows, connections.max ?? 0);
    const nodeCells = redis.clusterNodes ? NodeBreakers.CELLS : 0;
    const cells = Breaker.CELLS + MASTER_CELLS + permitCells + nodeCells;
    return new SharedArrayBuffer(cells * Int32Array.BYTES_PER_ELEMENT);
  }

  /** The main thread's row, behind the rows of all threads. */
  static mainRow({ threads }: Config): number {
    return gateRows(threads.count) - 1;
  }

  /** The row of a thread's helper. It is another one than the thread's, because both may wait for permits at once. */
  static helperRow({ threads }: Config, row: number): number {
    return rowsOf(threads.count) + row;
  }

  /** The keeper's row, before the main thread's. */
  static keeperRow(config: Config): number {
    return ConnectGate.mainRow(config) - 1;
  }

  /** @param row This thread's row in the shared tables. */
  constructor(buffer: SharedArrayBuffer, { threads, connections, redis }: Config, row: number) {
    const rows = gateRows(threads.count);
    const { connecting, max } = connections;
    const take = carve(new Int32Array(buffer));
    this.#breaker = new Breaker(take(Breaker.CELLS), row);
    this.outage = this.#breaker.outage;
    this.masterCells = take(MASTER_CELLS);
    const handshakeCells = take(SharedSemaphore.cells(rows, connecting));
    this.#handshakes = new SharedSemaphore(handshakeCells, { rows, row, count: connecting, isBrief: true });
    const socketCells = take(SharedSemaphore.cells(rows, max ?? 0));
    if (max !== undefined) this.#sockets = new SharedSemaphore(socketCells, { rows, row, count: max });
    if (redis.clusterNodes) this.#nodes = new NodeBreakers(take(NodeBreakers.CELLS), row);
  }

  /** The state of the server's breaker; in a Cluster the state of a node that is away, if one is. */
  get state(): BreakerState {
    return (this.#nodes?.open ?? this.#breaker).state;
  }

  /** How many attempts are under way, in all threads. */
  get connecting(): number {
    return this.#handshakes.held;
  }

  /** Whether a thread waits for a connection permit. */
  get isWanted(): boolean {
    return this.#sockets?.isWanted ?? false;
  }

  /**
   * Calls `giveUp` while a thread of the process waits for a connection permit: an idle connection could be closed for
   * it. Returns a function that ends this.
   */
  whenWanted(giveUp: () => void): () => void {
    return this.#sockets?.whenWanted(giveUp) ?? ((): void => {});
  }

  /** Waits for a connection permit, for a handshake permit and for the breaker, at most `ms` altogether. */
  enter(kind: PermitKind, ms: number, signal: AbortSignal): Promise<ConnectAttempt> {
    return this.#enterWithin(kind, ms, signal, this.#breaker, () => this.explain());
  }

  /** Why no attempt is let in at the moment, if so. */
  explain(): CircuitOpenError | undefined {
    return explain(this.#nodes?.open ?? this.#breaker, this.#nodes ? "a node of the Cluster" : "Redis");
  }

  /** The gate of one node of a Cluster: the same permits, behind the node's own breaker. */
  node(endpoint: Endpoint): ServerGate {
    const breaker = this.nodeBreaker(endpoint);
    const why = (): CircuitOpenError | undefined => explain(breaker, `node ${addressOf(endpoint)}`);
    return {
      server: "a node of the Cluster",
      outage: breaker.outage,
      masterCells: this.masterCells,
      explain: why,
      enter: (kind, ms, signal) => this.#enterWithin(kind, ms, signal, breaker, why),
    };
  }

  nodeBreaker(endpoint: Endpoint): Breaker {
    if (!this.#nodes) throw new Error("this gate was not made for a Cluster");
    return this.#nodes.of(endpoint);
  }

  /**
   * This thread is blocked and its attempts stand still. They are ended, so that other threads (and the thread's own
   * helper) can have their permits. The callers try again when the thread goes on.
   */
  giveWay(): void {
    for (const attempt of this.#attempts) {
      attempt.onGiveWay();
      attempt.closed();
    }
  }

  /** Frees what a thread or a helper that has ended held. */
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
    breaker: Breaker,
    why: () => Error | undefined,
  ): Promise<ConnectAttempt> {
    const patience = new AbortController();
    // Not AbortSignal.any(): Node 20 and 22 keep a trace of each, and `signal` lives as long as its client.
    const stop = onAbort(signal, () => patience.abort(signal.reason));
    const entering = this.#enter(kind, patience.signal, breaker).finally(stop);
    if (ms === Infinity) return entering;
    try {
      return await within(entering, ms, () => why() ?? noPermit(ms));
    } catch (error) {
      patience.abort(error);
      throw error;
    }
  }

  /**
   * The handshake permit comes before the breaker, so that only these few attempts are past the breaker when Redis goes
   * away. The permit is free while the breaker is waited for, because a thread that computes meanwhile would keep it from
   * the other threads when Redis is back.
   */
  async #enter(kind: PermitKind, signal: AbortSignal, breaker: Breaker): Promise<ConnectAttempt> {
    const freeSocket = await this.#sockets?.acquire(kind, signal);
    try {
      for (;;) {
        const freeHandshake = await this.#handshakes.acquire("main", signal);
        const pass = breaker.tryAdmit();
        if (pass) return this.#attempt(pass, freeHandshake, freeSocket);
        freeHandshake();
        await breaker.changed(signal);
      }
    } catch (error) {
      freeSocket?.();
      throw error;
    }
  }

  #attempt(pass: BreakerPass, freeHandshake: () => void, freeSocket: (() => void) | undefined): ConnectAttempt {
    const attempt: ConnectAttempt = {
      onGiveWay: () => {},
      succeeded: () => {
        this.#attempts.delete(attempt);
        pass.succeeded();
        freeHandshake();
      },
      failed: () => {
        pass.failed();
        attempt.closed();
      },
      closed: () => {
        freeSocket?.();
        freeHandshake();
        pass.abandoned();
        this.#attempts.delete(attempt);
      },
    };
    this.#attempts.add(attempt);
    return attempt;
  }
}

/** A gate for a client or thread that belongs to no manager: nobody else uses it. */
export function ownGate(config: Config): ConnectGate {
  return new ConnectGate(ConnectGate.buffer(config), config, 0);
}

function explain({ state, nextProbeMs }: Breaker, server: string): CircuitOpenError | undefined {
  if (state === "closed") return undefined;
  const when = nextProbeMs === 0 ? "a probe is under way" : `the next probe is in ${nextProbeMs} ms`;
  return new CircuitOpenError(`${server} is away; ${when}`, { outcome: "not-sent", nextProbeMs });
}

function noPermit(ms: number): Error {
  return new Error(`no connection of the process's budget (connections.max) was free within ${Math.round(ms)} ms`);
}

/** A row for each thread, one for each thread's helper, one for the keeper, and one for the main thread. */
function gateRows(threads: number): number {
  return 2 * rowsOf(threads) + 2;
}
