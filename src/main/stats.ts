import type { BreakerState } from "../common/breaker.js";
import type { SharedClient } from "../common/cache.js";
import type { ConnectionState } from "../common/client.js";
import type { ConnectGate } from "../common/connect-gate.js";
import type { CloseReason } from "../common/pool.js";
import type { Dispatcher } from "./dispatcher.js";
import type { ThreadState } from "./thread.js";
import type { Threads } from "./threads.js";

export interface Stats {
  readonly primary: { readonly state: ConnectionState; readonly ageMs: number; readonly rotations: number };
  /** Of the whole process. `connecting` counts handshakes under way; `max` is null without a limit. */
  readonly connections: { readonly open: number; readonly max: number | null; readonly connecting: number };
  /** Open while Redis is away and one prober tries for all. */
  readonly breaker: { readonly state: BreakerState };
  readonly queue: { readonly size: number };
  /** Threads that were replaced because of threads.maxTasks or threads.maxHeapMb. */
  readonly recycled: number;
  readonly threads: readonly ThreadStats[];
}

export interface ThreadStats {
  readonly threadId: number;
  readonly state: ThreadState;
  readonly running: number;
  readonly done: number;
  readonly failed: number;
  /** Calls of getRedis, withDedicated and acquireDedicated. */
  readonly acquires: number;
  /** Of these, answered by the cached client without asking Redis. */
  readonly cacheHits: number;
  readonly reconnects: number;
  /** Share of the last second in which the thread's loop was busy, 0 to 1. */
  readonly loopBusy: number;
  /** V8's heap in use, garbage included, buffers not; of the last second, or the last result. */
  readonly heapMb: number;
  readonly dedicated: {
    readonly out: number;
    readonly idle: number;
    readonly waiting: number;
    readonly max: number;
    /** Clients closed so far, by reason. */
    readonly closed: Readonly<Record<CloseReason, number>>;
  };
}

export interface StatsSources {
  readonly primary: SharedClient;
  readonly mainConnections: { readonly open: number };
  readonly gate: ConnectGate;
  readonly maxConnections: number | undefined;
  readonly dispatcher: Dispatcher;
  readonly threads: Threads;
  readonly recycled: number;
  readonly maxDedicated: number;
}

/** Everything at once and without a message: a thread blocked by CPU shows its last numbers. */
export function collectStats(sources: StatsSources): Stats {
  const {
    primary,
    mainConnections,
    gate,
    maxConnections = null,
    dispatcher,
    threads,
    recycled,
    maxDedicated,
  } = sources;
  const rows = [...threads];
  const open = rows.reduce((total, { row }) => total + row.get("open") + row.get("syncOpen"), mainConnections.open);
  return {
    primary: { state: primary.state, ageMs: Math.round(primary.ageMs), rotations: primary.rotations },
    connections: { open, max: maxConnections, connecting: gate.connecting },
    breaker: { state: gate.breaker.state },
    queue: { size: dispatcher.size },
    recycled,
    threads: rows.map((thread) => ({
      threadId: thread.threadId,
      state: thread.state,
      ...dispatcher.countsOf(thread),
      acquires: thread.row.get("acquires"),
      cacheHits: thread.row.get("cacheHits"),
      reconnects: thread.row.get("reconnects"),
      loopBusy: thread.row.get("loopBusy"),
      heapMb: Math.round(thread.row.get("heapMb")),
      dedicated: {
        out: thread.row.get("dedicatedOut"),
        idle: thread.row.get("dedicatedIdle"),
        waiting: thread.row.get("dedicatedWaiting"),
        max: maxDedicated,
        closed: {
          idle: thread.row.get("closedIdle"),
          lifetime: thread.row.get("closedLifetime"),
          dirty: thread.row.get("closedDirty"),
          dead: thread.row.get("closedDead"),
          failed: thread.row.get("closedFailed"),
          shutdown: thread.row.get("closedShutdown"),
        },
      },
    })),
  };
}
