import type { ConnectionState } from "../../connection/connection-state.js";
import type { LockLoss } from "../../core/errors.js";
import type { BreakerState } from "../../gate/breaker.js";
import type { ConnectGate } from "../../gate/connect-gate.js";
import { CLOSED_FIELDS, type LedgerField, type LedgerTotals, type NearField } from "../../link/ledger.js";
import type { NearCounts, NearStats } from "../../near/near-stats.js";
import type { CloseReason } from "../../pool/pool.js";
import type { MainClients } from "../clients.js";
import type { Dispatcher, TaskTally } from "../dispatch/dispatcher.js";
import type { Thread, ThreadState } from "../threads/thread.js";

export interface Stats {
  readonly primary: { readonly state: ConnectionState; readonly ageMs: number; readonly rotations: number };
  /** Connections of the whole process. `connecting` counts handshakes in progress; `max` is null without a limit. */
  readonly connections: { readonly open: number; readonly max: number | null; readonly connecting: number };
  /** Open while Redis is away and one client probes for all. */
  readonly breaker: { readonly state: BreakerState };
  readonly queue: { readonly size: number; readonly max: number };
  /** Counts of all tasks so far. */
  readonly tasks: TaskTally;
  /** How many threads were replaced because of threads.maxTasks or threads.maxHeapMb. */
  readonly recycled: number;
  /** How many threads ended without being asked to close. */
  readonly died: number;
  /** The locks of this process, and the keeper that extends them. Null before the first lock, unless there is a near cache. */
  readonly keeper: KeeperStats | null;
  /** Null without `nearCache.prefixes`, and until the code of the near cache is loaded. */
  readonly near: NearStats | null;
  /** Sums over all threads so far, including threads that are gone. */
  readonly totals: Totals;
  /** `threads.count`. */
  readonly places: number;
  readonly threads: readonly ThreadStats[];
}

export interface KeeperStats {
  /** Of its connection; in a Cluster connected to at least one node. `ended`: no keeper lives. Another one is started while a lock is held or there is a near cache, and with the next lock. */
  readonly state: "connecting" | "connected" | "ended";
  /** Locks that all threads held when the keeper last looked, at most 50 ms ago while any is held. */
  readonly held: number;
  /** Callers that wait for a lock which is held. */
  readonly waiting: number;
  /** How many times a lock was extended so far. */
  readonly extended: number;
  /** Commands to extend locks that failed so far. They are sent again; only a lock that is not extended in time is lost. */
  readonly extensionFailures: number;
  /** Locks that were lost so far, by reason; see `LockLostError`. */
  readonly lost: Readonly<Record<Exclude<LockLoss, "released" | "shutdown">, number>>;
}

export interface Totals {
  /** Calls of getRedis, withDedicated and acquireDedicated. */
  readonly acquires: number;
  /** How many of these calls got no dedicated client within `acquireTimeoutMs`. */
  readonly acquireTimeouts: number;
  readonly cacheHits: number;
  readonly reconnects: number;
  /** Dedicated clients that were closed, by reason. */
  readonly closed: Readonly<Record<CloseReason, number>>;
}

export interface ThreadStats {
  readonly threadId: number;
  /** From 0. A thread has the place of the thread that it replaces. */
  readonly place: number;
  readonly state: ThreadState;
  readonly running: number;
  readonly done: number;
  readonly failed: number;
  /** Calls of getRedis, withDedicated and acquireDedicated. */
  readonly acquires: number;
  /** How many of these calls got the cached client without a question to Redis. */
  readonly cacheHits: number;
  readonly reconnects: number;
  /** The share of time, 0 to 1, in which its loop was busy since the last look, at least a second; also while it is blocked. */
  readonly loopBusy: number;
  /** V8's used heap and its buffers with garbage, without shared memory; measured each second, and with results. */
  readonly heapMb: number;
  readonly dedicated: {
    readonly out: number;
    readonly idle: number;
    readonly waiting: number;
    readonly max: number;
    /** Clients that were closed so far, by reason. */
    readonly closed: Readonly<Record<CloseReason, number>>;
  };
  /** Null where `Stats.near` is. */
  readonly near: NearCounts | null;
}

export interface StatsSources {
  readonly clients: Pick<MainClients, "open"> & { readonly primary: Stats["primary"] };
  readonly gate: Pick<ConnectGate, "connecting" | "state">;
  readonly maxConnections: number | undefined;
  readonly dispatcher: Dispatcher;
  readonly threads: Iterable<Thread> & { readonly died: number };
  readonly totals: LedgerTotals;
  readonly recycled: number;
  readonly locks: { readonly stats: KeeperStats | null; readonly open: number };
  readonly near: {
    countsOf(count: (field: NearField) => number): NearCounts | null;
    stats(count: (field: NearField) => number): NearStats | null;
  };
  readonly maxDedicated: number;
  readonly places: number;
}

/** All numbers at once and without a message to threads, so that a thread blocked by CPU shows its last numbers. */
export function collectStats(sources: StatsSources): Stats {
  const {
    clients,
    gate,
    maxConnections = null,
    dispatcher,
    threads,
    totals,
    locks,
    near,
    maxDedicated,
    places,
  } = sources;
  const { primary } = clients;
  const living = [...threads];
  const rows = living.map(({ row }) => row);
  const total = (field: LedgerField): number => totals.of(field, rows);
  const open = rows.reduce((sum, row) => sum + row.get("open") + row.get("syncOpen"), clients.open + locks.open);
  return {
    primary: { state: primary.state, ageMs: Math.round(primary.ageMs), rotations: primary.rotations },
    connections: { open, max: maxConnections, connecting: gate.connecting },
    breaker: { state: gate.state },
    queue: { size: dispatcher.size, max: dispatcher.maxQueue },
    tasks: dispatcher.tally,
    recycled: sources.recycled,
    died: threads.died,
    keeper: locks.stats,
    near: near.stats(total),
    totals: {
      acquires: total("acquires"),
      acquireTimeouts: total("acquireTimeouts"),
      cacheHits: total("cacheHits"),
      reconnects: total("reconnects"),
      closed: closedBy(total),
    },
    places,
    threads: living.map((thread) => ({
      threadId: thread.threadId,
      place: thread.place,
      state: thread.state,
      ...dispatcher.countsOf(thread),
      acquires: thread.row.get("acquires"),
      cacheHits: thread.row.get("cacheHits"),
      reconnects: thread.row.get("reconnects"),
      loopBusy: thread.loopShare(),
      heapMb: Math.round(thread.row.get("heapMb")),
      dedicated: {
        out: thread.row.get("dedicatedOut"),
        idle: thread.row.get("dedicatedIdle"),
        waiting: thread.row.get("dedicatedWaiting"),
        max: maxDedicated,
        closed: closedBy((field) => thread.row.get(field)),
      },
      near: near.countsOf((field) => thread.row.get(field)),
    })),
  };
}

function closedBy(count: (field: LedgerField) => number): Record<CloseReason, number> {
  const counts = Object.entries(CLOSED_FIELDS).map(([reason, field]) => [reason, count(field)]);
  return Object.fromEntries(counts) as Record<CloseReason, number>;
}
