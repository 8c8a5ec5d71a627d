/** What does a read of a hot key cost through the near cache, beside a GET, other caches in each thread, and a plain Map? */
import { startRedis } from "../test/support/redis-server.js";
import { openManager } from "./contenders/redthread/redthread.js";
import { jsonText } from "./near-cache/values.js";
import type { Reading } from "./near-cache/tasks.js";
import type * as Tasks from "./near-cache/tasks.js";
import type { WayName } from "./near-cache/ways.js";
import { benchmark, isSmoke } from "./support/benchmark.js";
import { quantile, type Sample } from "./support/interleave.js";

interface NearPoint extends Record<string, string | number> {
  /** Where redthread finds the value, or how it is read. */
  readonly hit: string;
  readonly keys: number;
  readonly callers: number;
  readonly threads: number;
}

type Manager = ReturnType<typeof openManager<typeof Tasks>>;

const THREADS = [1, 2];
const TIMES = isSmoke ? { leadMs: 2, ms: 10 } : { leadMs: 30, ms: 100 };
const HOT = 200;
const MANY = 1_000;
const CALLERS = 100;

const HALF = 100; // a parsed value counts twice in a thread's own table

interface Part {
  readonly hit: string;
  readonly keys: number;
  readonly callers: number;
  readonly metric: "readsPerSecond" | "p50" | "nsPerRead";
  /** By contender. */
  readonly ways: Readonly<Record<string, WayName>>;
}

/** All threads read at the same time. */
function inAll<T>(threads: number, task: () => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: threads }, task));
}

async function rate(manager: Manager, threads: number, input: Reading): Promise<Sample> {
  const all = await inAll(threads, () => manager.run("rate", input, { exclusive: true }));
  const sum = all.map(({ reads, ms }) => (1_000 * reads) / ms).reduce((total, perSecond) => total + perSecond, 0);
  return { readsPerSecond: sum, nsPerRead: (1e9 * threads) / sum };
}

async function latency(manager: Manager, threads: number, input: Reading): Promise<Sample> {
  const samples = (await inAll(threads, () => manager.run("latencies", input, { exclusive: true }))).flat();
  return { p50: quantile(samples, 0.5), p99: quantile(samples, 0.99) };
}

async function peek(manager: Manager, threads: number, input: Reading): Promise<Sample> {
  const all = await inAll(threads, () => manager.run("peeks", input, { exclusive: true }));
  return { nsPerRead: quantile(all, 0.5) };
}

const MEASURE = { readsPerSecond: rate, p50: latency, nsPerRead: peek };
const TEXTS = {
  redthread: "near",
  "GET of the thread's client": "GET",
  "node-redis' cache": "node-redis",
  "lru-cache by hand": "lru",
  "Map by hand": "Map",
} as const;
const SHARED = { ...TEXTS, "a bare copy to text": "copy" } as const;
const OBJECTS = {
  redthread: "near json",
  "GET of the thread's client": "GET json",
  "node-redis' cache": "node-redis json",
  "Map by hand": "Map json",
} as const;
const AT_ONCE = { redthread: "near", "lru-cache by hand": "lru", "Map by hand": "Map" } as const;
const parts: readonly Part[] = [
  { hit: "own table", keys: HOT, callers: CALLERS, metric: "readsPerSecond", ways: TEXTS },
  { hit: "own table", keys: HOT, callers: 1, metric: "p50", ways: TEXTS },
  { hit: "peek", keys: HOT, callers: 1, metric: "nsPerRead", ways: AT_ONCE },
  { hit: "shared memory", keys: MANY, callers: CALLERS, metric: "readsPerSecond", ways: SHARED },
  { hit: "shared memory", keys: MANY, callers: 1, metric: "p50", ways: SHARED },
  { hit: "json", keys: HALF, callers: CALLERS, metric: "readsPerSecond", ways: OBJECTS },
];

function isAt(part: Part, point: Readonly<Record<string, string | number>>): boolean {
  return part.hit === point["hit"] && part.callers === point["callers"];
}

const partAt = (point: NearPoint): Part => parts.find((part) => isAt(part, point))!;

await using server = await startRedis();
for (let i = 0; i < MANY; i++) await server.admin.set(`near:${i}`, jsonText(i));

const managers = new Map<string, Manager>();
/** Each with threads that hold all keys, in each way. */
async function managerAt({ hit, threads }: NearPoint): Promise<Manager> {
  const isShared = hit === "shared memory";
  const id = `${threads} ${isShared}`;
  const known = managers.get(id);
  if (known) return known;
  const nearCache = { prefixes: ["near:"], ...(isShared && { ownTableBytes: 0 }) };
  const options = { redis: { port: server.port }, threads: { count: threads }, nearCache };
  const manager = openManager<typeof Tasks>(options, "near-cache/tasks.js");
  managers.set(id, manager);
  await manager.ready();
  const keys = isShared ? MANY : HOT;
  for (const way of new Set(parts.flatMap(({ ways }) => Object.values(ways))))
    await inAll(threads, () => manager.run("warm", { way, keys }, { exclusive: true }));
  return manager;
}

const Y_TITLES = { readsPerSecond: "reads per second", p50: "p50, µs", nsPerRead: "ns" };
await benchmark({
  question: "reads of hot keys with 4 kB of JSON in each thread: the near cache beside a GET and caches in each thread",
  columns: { readsPerSecond: "reads/s", nsPerRead: "ns/read", p50: "p50, µs", p99: "p99, µs" },
  reference: "redthread",
  points: parts.flatMap(({ hit, keys, callers }) =>
    THREADS.map((threads): NearPoint => ({ hit, keys, callers, threads })),
  ),
  contenders: Object.keys(SHARED).map((name) => ({
    name,
    takesPart: (point: NearPoint) => name in partAt(point).ways,
  })),
  rounds: isSmoke ? 1 : 11,
  warmUps: isSmoke ? 0 : 2,
  async measure({ name }, point) {
    const { metric, ways, keys, callers } = partAt(point);
    return MEASURE[metric](await managerAt(point), point.threads, { way: ways[name]!, keys, callers, ...TIMES });
  },
  notes: [
    "ns/read: of one thread, so that two threads with twice the reads have the same",
    "shared memory: nearCache.ownTableBytes is 0, and redthread decodes each value anew; the others have it decoded in each thread",
    "a bare copy to text: of shared memory, without a look at lease, version or key: nobody who copies can be faster",
    "by hand: the thread's own cache, filled by GET, and never told of writes",
    "json: near.json(), and JSON.parse of each value read; Map keeps objects",
  ],
  chart: {
    title: "Reads of hot keys with 4 kB of JSON, from threads",
    xTitle: "threads",
    isLog: true,
    panels: parts.map((part) => ({
      title: `${part.hit}, ${part.keys} keys, ${part.callers === 1 ? "one caller" : `${part.callers} callers`}`,
      x: "threads",
      metric: part.metric,
      yTitle: Y_TITLES[part.metric],
      where: (point: Readonly<Record<string, string | number>>) => isAt(part, point),
    })),
  },
});
for (const manager of managers.values()) await manager.shutdown();
