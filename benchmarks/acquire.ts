/** What does a client cost to get, cached or leased, beside a module's promise and the pools one could take? */
import type { ConnectionManager } from "redthread";
import { startRedis } from "../test/support/redis-server.js";
import type * as Tasks from "./contenders/acquire-tasks.js";
import type { AcquireInput } from "./contenders/acquire-tasks.js";
import { openManagerOf } from "./contenders/redthread.js";
import { buildsOf } from "./support/build.js";
import { interleave, type Named } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";

interface AcquirePoint extends Record<string, string | number> {
  readonly use: AcquireInput["use"];
  readonly callers: number;
}

interface Candidate extends Named<AcquirePoint> {
  readonly contender: AcquireInput["contender"];
  readonly manager: ConnectionManager<typeof Tasks>;
}

const options = parseBenchOptions();
const builds = buildsOf(options);
/** What takes ns takes no time, and its rounds differ by half. */
const ROUNDS = options.isSmoke ? { cached: 1, leased: 1 } : { cached: 300, leased: 20 };
const CALLS = options.isSmoke
  ? { cached: 1_000, nothing: 100, GET: 50, WATCH: 50 }
  : { cached: 50_000, nothing: 1_000, GET: 400, WATCH: 250 };
/** One, and four times as many as there are clients. */
const CALLERS = [1, 16];

const points: AcquirePoint[] = [
  { use: "cached", callers: 1 },
  ...CALLERS.flatMap((callers) =>
    (["nothing", "GET", "WATCH"] as const).map((use): AcquirePoint => ({ use, callers })),
  ),
];
const isCached = ({ use }: AcquirePoint): boolean => use === "cached";
const isLeased = (point: AcquirePoint): boolean => !isCached(point);
const rivals: readonly Named<AcquirePoint>[] = [
  { name: "await of a module's promise", takesPart: isCached },
  { name: "generic-pool, same checks", takesPart: isLeased },
  { name: "tarn, same checks", takesPart: isLeased },
  // What a GET takes by itself.
  {
    name: "one ioredis client, no pool",
    takesPart: ({ use, callers }) => use === "GET" && callers === 1,
  },
  // It would hand out a client that still watches.
  { name: "node-redis pool, no checks", takesPart: (point) => isLeased(point) && point.use !== "WATCH" },
];

await using server = await startRedis();
const managers = await Promise.all(
  builds.map((build) => openManagerOf<typeof Tasks>(build, "acquire-tasks.js", { port: server.port, threads: 1 })),
);
// Rivals run in the thread of ours. Two builds are compared without them: only one of the two would share its thread.
const contenders: Candidate[] = [
  ...builds.map((build, at) => ({ ...build.named("redthread"), contender: "redthread", manager: managers[at]! })),
  ...(builds.length === 1 ? rivals : []).map((rival) => ({ ...rival, contender: rival.name, manager: managers[0]! })),
];

async function nsPerCall({ contender, manager }: Candidate, { use, callers }: AcquirePoint): Promise<number> {
  return manager.run("acquire", { contender, use, callers, calls: CALLS[use], port: server.port });
}

const rows = await interleave(
  {
    points,
    contenders,
    rounds: (point) => (isCached(point) ? ROUNDS.cached : ROUNDS.leased),
    warmUps: options.isSmoke ? 0 : 10,
    measure: async (candidate, point) => ({ nsPerCall: await nsPerCall(candidate, point) }),
  },
  options,
);
for (const manager of managers) await manager.shutdown();
report(
  {
    name: "acquire",
    question: "what a client costs to get in a thread, cached or leased",
    metrics: [{ key: "nsPerCall", title: "ns/call" }],
    reference: "redthread",
    rows,
    notes: [
      ...(builds.length > 1 ? ["the rivals are left out: they run in the thread of one of the builds"] : []),
      "cached: `await getRedis()` beside `await` of a promise in a module variable, which checks nothing",
      "leased: withDedicated() and pools of 4 clients; the same checks: open, asked for a PING when idle for 500 ms, UNWATCH on return",
    ],
    chart: {
      title: "Nanoseconds per call to get a client in a thread",
      yTitle: "ns",
      xTitle: "what the lease is used for",
      kind: "bars",
      isLog: true,
      panels: [
        panelOf(rows, { title: "cached", x: "use", metric: "nsPerCall", where: isCached }),
        ...CALLERS.map((callers) =>
          panelOf(rows, {
            title: `leased, ${callers} ${callers === 1 ? "caller" : "callers"}`,
            x: "use",
            metric: "nsPerCall",
            where: (point) => isLeased(point) && point.callers === callers,
          }),
        ),
      ],
    },
  },
  options,
);
