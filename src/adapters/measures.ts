import type { Stats, ThreadStats } from "../index.js";

/** What of a manager the adapters look at. */
export interface Observed {
  readonly id: number;
  stats(): Stats;
}

/** One number with its attributes, named as OpenTelemetry names them. */
export type Sample = readonly [value: number, attributes?: Readonly<Record<string, string | number>>];

export interface Measure {
  readonly name: string;
  /** `counter`: only grows. `sum`: goes up and down, and adds up over processes. `gauge`: does not add up. */
  readonly kind: "counter" | "sum" | "gauge";
  /** As UCUM has it. */
  readonly unit: string;
  readonly help: string;
  /** The names of its samples' attributes. Default: none. */
  readonly attributes?: readonly string[];
  readonly read: (stats: Stats) => readonly Sample[];
}

export const POOL_NAME = "db.client.connection.pool.name";
/** The dedicated clients of all threads count as one pool: each thread has one, with the same options. */
export const DEDICATED = { [POOL_NAME]: "redthread.dedicated" };
const STATE = "db.client.connection.state";
const OUTCOME = "redthread.task.outcome";
const THREAD_STATE = "redthread.thread.state";
const THREAD_ID = "redthread.thread.id";
const REASON = "redthread.reason";
const STATES: readonly ThreadStats["state"][] = ["starting", "ready", "closing", "closed", "dead"];
const MB = 2 ** 20;

/** What both adapters show, each read from `manager.stats()`, which asks no thread. */
export const MEASURES: readonly Measure[] = [
  // Names from OpenTelemetry's semantic conventions 1.45, of the dedicated clients
  {
    name: "db.client.connection.count",
    kind: "sum",
    unit: "{connection}",
    help: "Dedicated clients by state: idle, or used by a task",
    attributes: [POOL_NAME, STATE],
    read: ({ threads }) => [
      [dedicated(threads, "idle"), { ...DEDICATED, [STATE]: "idle" }],
      [dedicated(threads, "out"), { ...DEDICATED, [STATE]: "used" }],
    ],
  },
  {
    name: "db.client.connection.limit",
    kind: "sum",
    unit: "{connection}",
    help: "Dedicated clients that there may be: dedicated.max of each thread",
    attributes: [POOL_NAME],
    read: ({ threads }) => [[dedicated(threads, "max"), DEDICATED]],
  },
  {
    name: "db.client.connection.idle.max",
    kind: "sum",
    unit: "{connection}",
    help: "Dedicated clients that may be idle: all of them, for dedicated.idleTimeoutMs",
    attributes: [POOL_NAME],
    read: ({ threads }) => [[dedicated(threads, "max"), DEDICATED]],
  },
  {
    name: "db.client.connection.idle.min",
    kind: "sum",
    unit: "{connection}",
    help: "Dedicated clients that are kept although idle: none",
    attributes: [POOL_NAME],
    read: () => [[0, DEDICATED]],
  },
  {
    name: "db.client.connection.pending_requests",
    kind: "sum",
    unit: "{request}",
    help: "Tasks that wait for a dedicated client",
    attributes: [POOL_NAME],
    read: ({ threads }) => [[dedicated(threads, "waiting"), DEDICATED]],
  },
  {
    name: "db.client.connection.timeouts",
    kind: "counter",
    unit: "{timeout}",
    help: "Requests for a dedicated client that ended with ACQUIRE_TIMEOUT",
    attributes: [POOL_NAME],
    read: ({ totals }) => [[totals.acquireTimeouts, DEDICATED]],
  },
  // redthread's own
  {
    name: "redthread.queue.size",
    kind: "sum",
    unit: "{task}",
    help: "Tasks that wait for a thread",
    read: ({ queue }) => [[queue.size]],
  },
  {
    name: "redthread.queue.limit",
    kind: "sum",
    unit: "{task}",
    help: "Tasks that may wait: queue.max",
    read: ({ queue }) => [[queue.max]],
  },
  {
    name: "redthread.tasks",
    kind: "counter",
    unit: "{task}",
    help: "Tasks by what their callers heard: done, failed by their own error, abandoned on the way, refused by a full queue",
    attributes: [OUTCOME],
    read: ({ tasks }) => Object.entries(tasks).map(([outcome, count]) => [count, { [OUTCOME]: outcome }]),
  },
  {
    name: "redthread.tasks.running",
    kind: "sum",
    unit: "{task}",
    help: "Tasks that a thread has been given and not ended",
    attributes: [THREAD_ID],
    read: ({ threads }) => threads.map(({ threadId, running }) => [running, thread(threadId)]),
  },
  {
    name: "redthread.threads",
    kind: "sum",
    unit: "{thread}",
    help: "Threads by state",
    attributes: [THREAD_STATE],
    read: ({ threads }) =>
      STATES.map((state) => [threads.filter((one) => one.state === state).length, { [THREAD_STATE]: state }]),
  },
  {
    name: "redthread.threads.recycled",
    kind: "counter",
    unit: "{thread}",
    help: "Threads that were replaced because of threads.maxTasks or threads.maxHeapMb",
    read: ({ recycled }) => [[recycled]],
  },
  {
    name: "redthread.threads.died",
    kind: "counter",
    unit: "{thread}",
    help: "Threads that ended although nobody had asked them to close",
    read: ({ died }) => [[died]],
  },
  {
    name: "redthread.thread.loop_busy",
    kind: "gauge",
    unit: "1",
    help: "Share of the time since it was last read, at least a second, in which the thread's loop was busy",
    attributes: [THREAD_ID],
    read: ({ threads }) => threads.map(({ threadId, loopBusy }) => [loopBusy, thread(threadId)]),
  },
  {
    name: "redthread.thread.heap",
    kind: "gauge",
    unit: "By",
    help: "The thread's V8 heap in use and its buffers, garbage included, as it last said",
    attributes: [THREAD_ID],
    read: ({ threads }) => threads.map(({ threadId, heapMb }) => [heapMb * MB, thread(threadId)]),
  },
  {
    name: "redthread.connections.open",
    kind: "sum",
    unit: "{connection}",
    help: "Connections of the whole process",
    read: ({ connections }) => [[connections.open]],
  },
  {
    name: "redthread.connections.limit",
    kind: "sum",
    unit: "{connection}",
    help: "connections.max; absent without one",
    read: ({ connections }) => (connections.max === null ? [] : [[connections.max]]),
  },
  {
    name: "redthread.connections.connecting",
    kind: "sum",
    unit: "{connection}",
    help: "Attempts to connect that are under way",
    read: ({ connections }) => [[connections.connecting]],
  },
  {
    name: "redthread.connections.reconnects",
    kind: "counter",
    unit: "{connection}",
    help: "Times that a connection of a thread was lost and came back",
    read: ({ totals }) => [[totals.reconnects]],
  },
  {
    name: "redthread.breaker.open",
    kind: "gauge",
    unit: "{flag}",
    help: "1 while Redis is away and one prober tries for all, else 0",
    read: ({ breaker }) => [[breaker.state === "closed" ? 0 : 1]],
  },
  {
    name: "redthread.primary.connected",
    kind: "gauge",
    unit: "{flag}",
    help: "1 while the primary client is connected, else 0",
    read: ({ primary }) => [[primary.state === "connected" ? 1 : 0]],
  },
  {
    name: "redthread.primary.rotations",
    kind: "counter",
    unit: "{rotation}",
    help: "Times that the primary client was replaced",
    read: ({ primary }) => [[primary.rotations]],
  },
  {
    name: "redthread.acquires",
    kind: "counter",
    unit: "{acquire}",
    help: "Calls of getRedis, withDedicated and acquireDedicated in threads",
    read: ({ totals }) => [[totals.acquires]],
  },
  {
    name: "redthread.cache_hits",
    kind: "counter",
    unit: "{acquire}",
    help: "Of these, those answered by the thread's cached client without asking Redis",
    read: ({ totals }) => [[totals.cacheHits]],
  },
  {
    name: "redthread.dedicated.closed",
    kind: "counter",
    unit: "{connection}",
    help: "Dedicated clients that were closed, by reason",
    attributes: [REASON],
    read: ({ totals }) => Object.entries(totals.closed).map(([reason, count]) => [count, { [REASON]: reason }]),
  },
];

function dedicated(threads: readonly ThreadStats[], field: "out" | "idle" | "waiting" | "max"): number {
  return threads.reduce((sum, one) => sum + one.dedicated[field], 0);
}

function thread(threadId: number): Record<string, number> {
  return { [THREAD_ID]: threadId };
}
