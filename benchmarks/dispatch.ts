/**
 * How many tasks per second do plain `run()` calls give, beside what people write by hand? GET 4 kB, n x sha256, SET;
 * n = "10ms" is as many rounds as keep a core busy for so long.
 */
import { startRedis } from "../test/support/redis-server.js";
import { candidatesOf, ContenderProcess, fillKeys } from "./contenders/process.js";
import { type ContenderName, ROSTER } from "./contenders/roster.js";
import { builds, isSmoke, options, report } from "./support/benchmark.js";
import { choosePoints, interleaveProcesses } from "./support/interleave.js";
import { roundsOf } from "./support/loops.js";

interface DispatchPoint extends Record<string, string | number> {
  readonly callers: number;
  readonly n: string;
}

const CALLERS = isSmoke ? [64] : [1, 8, 64];
const PASSES = isSmoke ? 1 : builds.length === 1 ? 2 : 10;
const ROUNDS_OF: Readonly<Record<string, number>> = { 0: 0, 20: 20, 100: 100, 1000: 1_000, "10ms": roundsOf(10) };
const SIZES = isSmoke ? ["0", "100"] : Object.keys(ROUNDS_OF);
/** Short turns that come often, so that longer load of the machine meets all contenders. */
const SHORT = isSmoke ? { turns: 1, leadMs: 5, ms: 20 } : { turns: 6, leadMs: 10, ms: 40 };
/** With many callers, a short turn has too few tasks of a millisecond or more; a single caller's are regular. */
const LONG = isSmoke ? SHORT : { turns: 1, leadMs: 40, ms: 240 };
/** The compiler must see enough of what many callers run, and one: after 0.5 s ours does half of what it does after 2 s. */
const WARM_UPS = isSmoke
  ? [{ callers: 64, ms: 20 }]
  : [
      { callers: 64, ms: 2_000 },
      { callers: 1, ms: 1_500 },
    ];

/** These take part at two points only, and are hardly warmed. */
const SLOW = new Set<ContenderName>([
  "connection per task",
  "piscina tuned + valkey-glide",
  "BullMQ sandboxed threads",
]);

function takesPart(name: ContenderName, { callers, n }: DispatchPoint): boolean {
  if (SLOW.has(name)) return callers === 64 && (n === "0" || n === "100");
  if (name === "near cache in redthread run()") return n === "0"; // without the GET there is least to do
  // A turn has too few batches of longer tasks.
  if (name === "no Redis, the CPU's part alone") return callers === 64 && ROUNDS_OF[n]! <= 100;
  return true;
}

function turnOf({ callers, n }: DispatchPoint): typeof SHORT {
  return callers === 1 || ROUNDS_OF[n]! < 1_000 ? SHORT : LONG;
}

// Before any process starts, so that a wrong --only is reported at once.
const points = choosePoints(
  CALLERS.flatMap((callers) => SIZES.map((n): DispatchPoint => ({ callers, n }))),
  options,
);

await using server = await startRedis();
await fillKeys(server.admin);

const rows = await interleaveProcesses(
  {
    points,
    contenders: candidatesOf(Object.keys(ROSTER) as ContenderName[], builds).map((candidate) => ({
      ...candidate,
      takesPart: (point: DispatchPoint) => takesPart(candidate.contender, point),
    })),
    passes: PASSES,
    rounds: (point) => turnOf(point).turns,
    open: (candidate) => new ContenderProcess(candidate, server.port),
    start: (process) => process.rate({ callers: 64, rounds: 0, ms: 0 }),
    async warm(process, { contender }) {
      const warmUps = SLOW.has(contender) ? [{ callers: 64, ms: SHORT.ms }] : WARM_UPS;
      for (const warmUp of warmUps) await process.rate({ ...warmUp, rounds: 0 });
    },
    measure({ process }, point) {
      const { leadMs, ms } = turnOf(point);
      return process.rate({ callers: point.callers, rounds: ROUNDS_OF[point.n]!, leadMs, ms });
    },
  },
  options,
);
report(
  {
    question: "tasks of GET 4 kB + n x sha256 + SET through 2 threads, from callers that wait for theirs",
    columns: { tasksPerSecond: "tasks/s", cpuPerTask: "CPU µs/task" },
    reference: "redthread run()",
    notes: [
      "CPU is the whole process's, of all its threads; the server's is not in it",
      "each contender has a process to itself in each round; they take turns, each with a lead that does not count",
    ],
    chart: {
      title: "Tasks per second: GET 4 kB + n x sha256 + SET, 2 threads",
      yTitle: "tasks per second",
      xTitle: "n (10ms: that much CPU)",
      isLog: true,
      panels: CALLERS.map((count) => ({
        title: `${count} ${count === 1 ? "caller" : "callers"}`,
        x: "n",
        metric: "tasksPerSecond",
        where: ({ callers }) => callers === count,
      })),
    },
  },
  rows,
);
