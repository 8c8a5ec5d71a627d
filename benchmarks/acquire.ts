/** What does a client cost to get, cached or leased, beside a module's promise and other pools? */
import { startRedis } from "../test/support/redis-server.js";
import type * as Tasks from "./acquire/tasks.js";
import type { AcquireInput } from "./acquire/tasks.js";
import { openManagers } from "./contenders/redthread/redthread.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";
import type { Named, Point } from "./support/interleave.js";

type AcquirePoint = Pick<AcquireInput, "use" | "callers">;

const CALLS = isSmoke
  ? { cached: 1_000, nothing: 100, GET: 50, WATCH: 50 }
  : { cached: 50_000, nothing: 1_000, GET: 400, WATCH: 250 };
/** One, and four times as many as there are clients. */
const CALLERS = [1, 16];

const isCached = ({ use }: AcquirePoint): boolean => use === "cached";
const isLeased = ({ use }: AcquirePoint): boolean => use !== "cached";
const rivals: readonly Named<AcquirePoint>[] = [
  { name: "await of a module's promise", takesPart: isCached },
  { name: "generic-pool, same checks", takesPart: isLeased },
  { name: "tarn, same checks", takesPart: isLeased },
  // The cost of a GET alone.
  { name: "one ioredis client, no pool", takesPart: ({ use, callers }) => use === "GET" && callers === 1 },
  // It would lend a client that still watches.
  { name: "node-redis pool, no checks", takesPart: ({ use }) => use === "nothing" || use === "GET" },
];

await using server = await startRedis();
const { port } = server;
const options = { redis: { port }, threads: { count: 1 } };
await using managers = await openManagers<typeof Tasks>(builds, options, "acquire/tasks.js");
await benchmark({
  question: "what a client costs to get in a thread, cached or leased",
  columns: { nsPerCall: "ns/call" },
  reference: "redthread",
  points: [
    { use: "cached", callers: 1 },
    ...CALLERS.flatMap((callers) => (["nothing", "GET", "WATCH"] as const).map((use) => ({ use, callers }))),
  ] as (AcquirePoint & Record<string, string | number>)[],
  // Rivals run in the same thread as redthread. Two builds are compared without them, because only one would share its thread.
  contenders: [
    ...builds.map((build, at) => ({ ...build.named("redthread"), contender: "redthread", manager: managers[at]! })),
    ...(builds.length === 1 ? rivals : []).map((rival) => ({ ...rival, contender: rival.name, manager: managers[0]! })),
  ],
  // A call of some ns needs many rounds: they differ by half.
  rounds: (point) => (isSmoke ? 1 : isCached(point) ? 300 : 20),
  warmUps: isSmoke ? 0 : 10,
  async measure({ contender, manager }, { use, callers }) {
    return { nsPerCall: await manager.run("acquire", { contender, use, callers, calls: CALLS[use], port }) };
  },
  notes: [
    ...(builds.length > 1 ? ["the rivals are left out: they run in the thread of one of the builds"] : []),
    "cached: `await getRedis()` beside `await` of a promise in a module variable, which checks nothing",
    "leased: withDedicated() and pools of 4 clients; the same checks: open, asked for a PING when idle for 500 ms, UNWATCH on return",
  ],
  chart: {
    title: "Nanoseconds per call to get a client in a thread",
    yTitle: "ns",
    xTitle: "what the lease is used for",
    isLog: true,
    panels: [
      { title: "cached", x: "use", metric: "nsPerCall", where: ({ use }) => use === "cached" },
      ...CALLERS.map((count) => ({
        title: `leased, ${count} ${count === 1 ? "caller" : "callers"}`,
        x: "use",
        metric: "nsPerCall",
        where: ({ use, callers }: Point) => use !== "cached" && callers === count,
      })),
    ],
  },
});
