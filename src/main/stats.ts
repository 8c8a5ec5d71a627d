import type { SharedClient } from "../common/cache.js";
import type { ConnectionState } from "../common/client.js";
import type { Dispatcher } from "./dispatcher.js";
import type { ThreadState } from "./thread.js";
import type { Threads } from "./threads.js";

export interface Stats {
  readonly primary: { readonly state: ConnectionState; readonly ageMs: number; readonly rotations: number };
  /** Of the whole process, as its threads last noted. */
  readonly connections: { readonly open: number; readonly connecting: number };
  readonly queue: { readonly size: number };
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
  readonly dedicated: { readonly out: number; readonly idle: number; readonly waiting: number; readonly max: number };
}

export interface StatsSources {
  readonly primary: SharedClient;
  readonly mainConnections: { readonly open: number; readonly connecting: number };
  readonly dispatcher: Dispatcher;
  readonly threads: Threads;
  readonly maxDedicated: number;
}

/** Everything at once and without a message: a thread blocked by CPU shows its last numbers. */
export function collectStats({ primary, mainConnections, dispatcher, threads, maxDedicated }: StatsSources): Stats {
  const rows = [...threads];
  const sum = (field: "open" | "connecting"): number =>
    rows.reduce((total, { row }) => total + row.get(field), mainConnections[field]);
  return {
    primary: { state: primary.state, ageMs: Math.round(primary.ageMs), rotations: primary.rotations },
    connections: { open: sum("open"), connecting: sum("connecting") },
    queue: { size: dispatcher.size },
    threads: rows.map((thread) => ({
      threadId: thread.threadId,
      state: thread.state,
      ...dispatcher.countsOf(thread),
      acquires: thread.row.get("acquires"),
      cacheHits: thread.row.get("cacheHits"),
      reconnects: thread.row.get("reconnects"),
      loopBusy: thread.row.get("loopBusy"),
      dedicated: {
        out: thread.row.get("dedicatedOut"),
        idle: thread.row.get("dedicatedIdle"),
        waiting: thread.row.get("dedicatedWaiting"),
        max: maxDedicated,
      },
    })),
  };
}
