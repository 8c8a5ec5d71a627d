/**
 * What the adapters for OpenTelemetry and Prometheus share: the measures, the names that they may show, and subscriptions to
 * channels. Adapters connect redthread with other libraries. They may import the faces (index, worker, testing) and core;
 * nothing imports an adapter, because its library may be missing. Start reading at one of them.
 */
import type { TracingChannel } from "node:diagnostics_channel";
import type { Stats, TaskMessage, ThreadStats } from "../index.js";

/** The part of a manager that the adapters read. */
export interface Observed {
  readonly id: number;
  stats(): Stats;
}

/** One number with its attributes, which have OpenTelemetry's names. */
export type Sample = readonly [value: number, attributes?: Readonly<Record<string, string | number>>];

export interface Measure {
  /** A `counter` only grows. A `sum` goes up and down; sums of several processes are added. The others say how to join them. */
  readonly kind: "counter" | "sum" | "average" | "max" | "min";
  readonly name: string;
  /** In the notation of UCUM. */
  readonly unit: string;
  readonly help: string;
  /** The names of its samples' attributes, beside `MANAGER`. */
  readonly attributes: readonly string[];
  readonly read: (stats: Stats) => readonly Sample[];
}

export interface Listeners<Message extends object> {
  readonly start?: (message: Message) => void;
  readonly error?: (message: Message) => void;
  readonly asyncEnd?: (message: Message) => void;
}

/** Every sample has this attribute, because a process may have several managers. */
export const MANAGER = "redthread.manager";
export const POOL_NAME = "db.client.connection.pool.name";
/** Each thread has a pool of dedicated clients with the same options: they count as one pool. */
export const DEDICATED = { [POOL_NAME]: "redthread.dedicated" };
const STATE = "db.client.connection.state";
/** Not the id of the thread: ids are never used again, so that each new thread would add a series. */
const PLACE = "redthread.thread.place";
const STATES: readonly ThreadStats["state"][] = ["starting", "ready", "closing", "closed", "dead"];
const MB = 2 ** 20;

/** What both adapters show. All of it is read from `manager.stats()`, which asks no thread. */
export const MEASURES: readonly Measure[] = [
  // Names from OpenTelemetry's semantic conventions 1.45, for the dedicated clients.
  {
    kind: "sum",
    name: "db.client.connection.count",
    unit: "{connection}",
    help: "Dedicated clients by state",
    attributes: [POOL_NAME, STATE],
    read: (stats) => [
      [dedicated("idle")(stats), { ...DEDICATED, [STATE]: "idle" }],
      [dedicated("out")(stats), { ...DEDICATED, [STATE]: "used" }],
    ],
  },
  ...plain(
    "sum",
    "{connection}",
    {
      "db.client.connection.limit": ["Dedicated clients that there may be", dedicated("max")],
      "db.client.connection.idle.max": ["Dedicated clients that may be idle: all", dedicated("max")],
      "db.client.connection.idle.min": ["Dedicated clients that are kept although idle: none", () => 0],
    },
    DEDICATED,
  ),
  ...plain(
    "sum",
    "{request}",
    { "db.client.connection.pending_requests": ["Tasks that wait for a dedicated client", dedicated("waiting")] },
    DEDICATED,
  ),
  ...plain(
    "counter",
    "{timeout}",
    {
      "db.client.connection.timeouts": [
        "Requests for a dedicated client that ended with ACQUIRE_TIMEOUT",
        ({ totals }) => totals.acquireTimeouts,
      ],
    },
    DEDICATED,
  ),
  // redthread's own
  ...plain("sum", "{task}", {
    "redthread.queue.size": ["Tasks that wait for a thread", ({ queue }) => queue.size],
    "redthread.queue.limit": ["Tasks that may wait: queue.max", ({ queue }) => queue.max],
  }),
  {
    kind: "counter",
    name: "redthread.tasks",
    unit: "{task}",
    help: "Tasks by the outcome that their callers got",
    ...by("redthread.task.outcome", ({ tasks }) => Object.entries(tasks)),
  },
  {
    kind: "sum",
    name: "redthread.tasks.running",
    unit: "{task}",
    help: "Tasks that threads have and have not ended",
    ...byPlace(({ running }) => running),
  },
  {
    kind: "sum",
    name: "redthread.threads",
    unit: "{thread}",
    help: "Threads by state",
    ...by("redthread.thread.state", ({ threads }) =>
      STATES.map((state) => [state, threads.filter((one) => one.state === state).length]),
    ),
  },
  ...plain("counter", "{thread}", {
    "redthread.threads.recycled": ["Threads that were replaced as worn", ({ recycled }) => recycled],
    "redthread.threads.died": ["Threads that ended unasked", ({ died }) => died],
  }),
  {
    kind: "average",
    name: "redthread.thread.loop_busy",
    unit: "1",
    help: "Share of the time since the last read in which the thread's loop was busy",
    ...byPlace(({ loopBusy }) => loopBusy, Math.max),
  },
  {
    kind: "sum",
    name: "redthread.thread.heap",
    unit: "By",
    help: "V8's heap in use and its buffers, garbage included",
    ...byPlace(({ heapMb }) => heapMb * MB),
  },
  ...plain("sum", "{connection}", {
    "redthread.connections.open": ["Connections of the whole process", ({ connections }) => connections.open],
    "redthread.connections.connecting": [
      "Attempts to connect in progress",
      ({ connections }) => connections.connecting,
    ],
  }),
  ...plain("sum", "{connection}", {
    "redthread.connections.limit": ["connections.max; absent without one", ({ connections }) => connections.max],
  }),
  ...plain("counter", "{connection}", {
    "redthread.connections.reconnects": [
      "Connections of threads that were lost and came back",
      ({ totals }) => totals.reconnects,
    ],
  }),
  ...plain("max", "{flag}", {
    "redthread.breaker.open": ["1 while Redis is away", ({ breaker }) => Number(breaker.state !== "closed")],
  }),
  ...plain("min", "{flag}", {
    "redthread.primary.connected": [
      "1 while the primary client is connected",
      ({ primary }) => Number(primary.state === "connected"),
    ],
  }),
  ...plain("counter", "{rotation}", {
    "redthread.primary.rotations": ["Times that the primary client was replaced", ({ primary }) => primary.rotations],
  }),
  ...plain("counter", "{acquire}", {
    "redthread.acquires": ["Calls for a client in threads", ({ totals }) => totals.acquires],
    "redthread.cache_hits": ["Of these, those answered without asking Redis", ({ totals }) => totals.cacheHits],
  }),
  {
    kind: "counter",
    name: "redthread.dedicated.closed",
    unit: "{connection}",
    help: "Dedicated clients that were closed, by reason",
    ...by("redthread.reason", ({ totals }) => Object.entries(totals.closed)),
  },
  // Of locks; absent before the first one
  ...plain("min", "{flag}", {
    "redthread.keeper.connected": [
      "1 while the thread that extends locks is connected",
      ({ keeper }) => keeper && Number(keeper.state === "connected"),
    ],
  }),
  ...plain("sum", "{lock}", {
    "redthread.locks.held": ["Locks that are held", ({ keeper }) => keeper?.held],
  }),
  ...plain("sum", "{request}", {
    "redthread.locks.waiting": ["Callers that wait for a lock", ({ keeper }) => keeper?.waiting],
  }),
  ...plain("counter", "{extension}", {
    "redthread.locks.extended": ["Times that a lock was extended", ({ keeper }) => keeper?.extended],
  }),
  ...plain("counter", "{command}", {
    "redthread.locks.extension_failures": [
      "Commands to extend locks that failed",
      ({ keeper }) => keeper?.extensionFailures,
    ],
  }),
  {
    kind: "counter",
    name: "redthread.locks.lost",
    unit: "{lock}",
    help: "Locks that were lost while they were held, by reason",
    ...by("redthread.reason", ({ keeper }) => Object.entries(keeper?.lost ?? {})),
  },
  // Absent without a near cache
  ...plain("min", "{flag}", {
    "redthread.near.serving": ["1 while the near cache may serve", ({ near }) => near && Number(near.leaseMs > 0)],
  }),
  {
    kind: "counter",
    name: "redthread.near.reads",
    unit: "{read}",
    help: "Reads of the near cache by result; missed and unleased ones asked Redis",
    ...by("redthread.near.result", ({ near }) => {
      if (!near) return [];
      const { hits, misses, unleased } = near.totals;
      return Object.entries({ ...hits, missed: misses - unleased, unleased });
    }),
  },
  {
    kind: "counter",
    name: "redthread.near.replies",
    unit: "{reply}",
    help: "Replies to reads of the near cache by what became of them",
    ...by("redthread.near.outcome", ({ near }) => {
      if (!near) return [];
      const { fills: kept, outdated, elsewhere, oversize } = near.totals;
      return Object.entries({ kept, outdated, elsewhere, oversize });
    }),
  },
  ...plain("counter", "{key}", {
    "redthread.near.invalidated": ["Keys that the server told were written", ({ near }) => near?.invalidated],
  }),
  ...plain("counter", "{flush}", {
    "redthread.near.flushes": ["Times that all values were dropped", ({ near }) => near?.flushes],
  }),
  ...plain("sum", "By", {
    "redthread.near.size": ["Memory of values and their keys", ({ near }) => near?.usedBytes],
    "redthread.near.limit": ["nearCache.maxBytes", ({ near }) => near?.maxBytes],
  }),
  ...plain("counter", "{segment}", {
    "redthread.near.wraps": ["Segments that were emptied to be filled again", ({ near }) => near?.wraps],
  }),
];

/** Measures of one number each, which is absent where there is none. */
function plain(
  kind: Measure["kind"],
  unit: string,
  measures: Readonly<Record<string, readonly [help: string, read: (stats: Stats) => number | null | undefined]>>,
  attributes: NonNullable<Sample[1]> = {},
): Measure[] {
  return Object.entries(measures).map(([name, [help, read]]) => {
    return {
      kind,
      name,
      unit,
      help,
      attributes: Object.keys(attributes),
      read: (stats) => {
        const value = read(stats);
        return typeof value === "number" ? [[value, attributes]] : [];
      },
    };
  });
}

/** A number for each value of one attribute. */
function by(
  attribute: string,
  read: (stats: Stats) => readonly (readonly [of: string | number, value: number])[],
): Pick<Measure, "attributes" | "read"> {
  return {
    attributes: [attribute],
    read: (stats) => read(stats).map(([of, value]) => [value, { [attribute]: of }]),
  };
}

/**
 * One number for each place, also for a place without a thread: OpenTelemetry's SDK goes on showing the last value of a
 * series that is no longer observed. While a thread is recycled, its replacement has the same place.
 */
function byPlace(
  value: (thread: ThreadStats) => number,
  join: (a: number, b: number) => number = (a, b) => a + b,
): Pick<Measure, "attributes" | "read"> {
  return by(PLACE, ({ places, threads }) => {
    const values = Array.from({ length: places }, () => 0);
    for (const thread of threads) values[thread.place] = join(values[thread.place]!, value(thread));
    return [...values.entries()];
  });
}

function dedicated(field: "out" | "idle" | "waiting" | "max"): (stats: Stats) => number {
  return ({ threads }) => threads.reduce((sum, one) => sum + one.dedicated[field], 0);
}

/** Subscribes to a channel; returns the function that ends the subscription. */
export function listen<Message extends object>(
  channel: TracingChannel<unknown, Message>,
  listeners: Listeners<Message>,
): () => void {
  const taken = listeners as Parameters<typeof channel.subscribe>[0]; // Node takes fewer than five listeners, its types do not
  channel.subscribe(taken);
  return () => channel.unsubscribe(taken);
}

/** The value that the semantic conventions have for `error.type`. */
const OTHER = "_OTHER";
const MOST = 50;

/**
 * The values of an attribute that strangers may choose. Each value is a series for the life of the process: the known values
 * stay as they are, and so do the first 50 of the others.
 */
export class Bounded {
  readonly #kept = new Set<string>();
  #others = 0;

  /** By default for error codes: redthread's own are known. */
  of(value: string, isKnown = isOurs(value)): string {
    if (this.#kept.has(value)) return value;
    if (!isKnown && ++this.#others > MOST) return OTHER;
    this.#kept.add(value);
    return value;
  }
}

/** The name of a task that exists, even if it only throws. Programs that add jobs to a queue choose names, too. */
export function knownName(names: Bounded, { task, code = "" }: TaskMessage): string {
  return code === "REDTHREAD_TASK_NOT_FOUND" ? OTHER : names.of(task, !isOurs(code));
}

function isOurs(code: string): boolean {
  return code.startsWith("REDTHREAD_");
}
