import type { Stats, TaskMessage, ThreadStats } from "../index.js";

/** What of a manager the adapters look at. */
export interface Observed {
  readonly id: number;
  stats(): Stats;
}

/** One number with its attributes, named as OpenTelemetry names them. */
export type Sample = readonly [value: number, attributes?: Readonly<Record<string, string | number>>];

export interface Measure {
  readonly name: string;
  /** `counter` only grows. `sum` goes up and down, and adds up over processes. The others are joined so, because they do not. */
  readonly kind: "counter" | "sum" | "average" | "max" | "min";
  /** As UCUM has it. */
  readonly unit: string;
  readonly help: string;
  /** The names of its samples' attributes, beside `MANAGER`. Default: none. */
  readonly attributes?: readonly string[];
  readonly read: (stats: Stats) => readonly Sample[];
}

/** Every sample has it: a process may have several managers. */
export const MANAGER = "redthread.manager";
export const POOL_NAME = "db.client.connection.pool.name";
/** The dedicated clients of all threads count as one pool: each thread has one, with the same options. */
export const DEDICATED = { [POOL_NAME]: "redthread.dedicated" };
const STATE = "db.client.connection.state";
const OUTCOME = "redthread.task.outcome";
const THREAD_STATE = "redthread.thread.state";
/** Ids of threads are never used again: each new thread would add a series. */
const PLACE = "redthread.thread.place";
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
    help: "Dedicated clients by state",
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
    help: "Dedicated clients that there may be",
    attributes: [POOL_NAME],
    read: ({ threads }) => [[dedicated(threads, "max"), DEDICATED]],
  },
  {
    name: "db.client.connection.idle.max",
    kind: "sum",
    unit: "{connection}",
    help: "Dedicated clients that may be idle: all",
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
    help: "Requests for one that ended with ACQUIRE_TIMEOUT",
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
    help: "Tasks by what their callers heard",
    attributes: [OUTCOME],
    read: ({ tasks }) => Object.entries(tasks).map(([outcome, count]) => [count, { [OUTCOME]: outcome }]),
  },
  {
    name: "redthread.tasks.running",
    kind: "sum",
    unit: "{task}",
    help: "Tasks that a thread has been given and not ended",
    attributes: [PLACE],
    read: (stats) => byPlace(stats, ({ running }) => running),
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
    help: "Threads that were replaced as worn",
    read: ({ recycled }) => [[recycled]],
  },
  {
    name: "redthread.threads.died",
    kind: "counter",
    unit: "{thread}",
    help: "Threads that ended unasked",
    read: ({ died }) => [[died]],
  },
  {
    name: "redthread.thread.loop_busy",
    kind: "average",
    unit: "1",
    help: "Share of the time since the last read in which the thread's loop was busy",
    attributes: [PLACE],
    read: (stats) => byPlace(stats, ({ loopBusy }) => loopBusy, Math.max),
  },
  {
    name: "redthread.thread.heap",
    kind: "sum",
    unit: "By",
    help: "V8's heap in use and its buffers, garbage included",
    attributes: [PLACE],
    read: (stats) => byPlace(stats, ({ heapMb }) => heapMb * MB),
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
    help: "Connections of threads that were lost and came back",
    read: ({ totals }) => [[totals.reconnects]],
  },
  {
    name: "redthread.breaker.open",
    kind: "max",
    unit: "{flag}",
    help: "1 while Redis is away",
    read: ({ breaker }) => [[breaker.state === "closed" ? 0 : 1]],
  },
  {
    name: "redthread.primary.connected",
    kind: "min",
    unit: "{flag}",
    help: "1 while the primary client is connected",
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
    help: "Calls for a client in threads",
    read: ({ totals }) => [[totals.acquires]],
  },
  {
    name: "redthread.cache_hits",
    kind: "counter",
    unit: "{acquire}",
    help: "Of these, those answered without asking Redis",
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

/**
 * One sample for each place, also where no thread lives: OpenTelemetry's SDK shows the last value for ever of what is no
 * longer observed. While a thread is recycled, its replacement has the same place.
 */
function byPlace(
  { places, threads }: Stats,
  value: (thread: ThreadStats) => number,
  join: (a: number, b: number) => number = (a, b) => a + b,
): Sample[] {
  const values = Array.from({ length: places }, () => 0);
  for (const thread of threads) values[thread.place] = join(values[thread.place]!, value(thread));
  return values.map((one, place) => [one, { [PLACE]: place }]);
}

/** As the semantic conventions of `error.type` have it. */
const OTHER = "_OTHER";
const MOST = 50;

/**
 * The values of an attribute that outsiders may choose, and each is a series for the life of the process: the known ones
 * are kept apart, of the others only the first 50.
 */
export class Bounded {
  readonly #kept = new Set<string>();
  #others = 0;

  /** By default for codes: ours are known. */
  of(value: string, isKnown = isOurs(value)): string {
    if (this.#kept.has(value)) return value;
    if (!isKnown && ++this.#others > MOST) return OTHER;
    this.#kept.add(value);
    return value;
  }
}

/** Whoever adds jobs to a queue chooses names. A task that did something, be it throw, exists. */
export function knownName(names: Bounded, { task, code = "" }: TaskMessage): string {
  return code === "REDTHREAD_TASK_NOT_FOUND" ? OTHER : names.of(task, !isOurs(code));
}

function isOurs(code: string): boolean {
  return code.startsWith("REDTHREAD_");
}
