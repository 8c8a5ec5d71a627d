/**
 * How many tasks per second do plain `run()` calls give, beside what one writes by hand? GET 4 kB, n x sha256, SET;
 * n = "10ms" is as many as keep a core busy for so long.
 */
import { startRedis } from "../test/support/redis-server.js";
import { type Candidate, candidatesOf, ContenderProcess, fillKeys } from "./contenders/contender-process.js";
import { type ContenderName, ROSTER } from "./contenders/roster.js";
import { buildsOf } from "./support/build.js";
import {
  chooseContenders,
  choosePoints,
  interleave,
  mergeRounds,
  type Named,
  type Row,
  turns,
} from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { roundsOf } from "./support/rounds-of.js";

interface DispatchPoint extends Record<string, string | number> {
  readonly callers: number;
  readonly n: string;
}

const options = parseBenchOptions();
const { isSmoke } = options;
const CALLERS = isSmoke ? [64] : [1, 8, 64];
const ROUNDS = isSmoke ? 1 : options.beside === undefined ? 2 : 10;
const ROUNDS_OF: Readonly<Record<string, number>> = { 0: 0, 20: 20, 100: 100, 1000: 1_000, "10ms": roundsOf(10) };
const SIZES = isSmoke ? ["0", "100"] : Object.keys(ROUNDS_OF);
/** A turn of each contender, and how often it comes: what the machine does for longer falls on all of them. */
const SHORT = isSmoke ? { turns: 1, leadMs: 5, ms: 20 } : { turns: 6, leadMs: 10, ms: 40 };
/** Of many callers, tasks of a millisecond or more would be too few for a short one; one caller's are regular. */
const LONG = isSmoke ? SHORT : { turns: 1, leadMs: 40, ms: 240 };
/** Until the compiler has seen enough, of what many callers run and of what one does: after 0.5 s ours does half of what it does after 2. */
const WARM_UPS = isSmoke
  ? [{ callers: 64, ms: 20 }]
  : [
      { callers: 64, ms: 2_000 },
      { callers: 1, ms: 1_500 },
    ];

/** Asked at two points only, and hardly warmed. */
const SLOW = new Set<ContenderName>([
  "connection per task",
  "piscina tuned + valkey-glide",
  "BullMQ sandboxed threads",
]);

function takesPart(name: ContenderName, { callers, n }: DispatchPoint): boolean {
  if (SLOW.has(name)) return callers === 64 && (n === "0" || n === "100");
  // Batches of longer tasks would be too few for a turn.
  if (name === "no Redis, the CPU's part alone") return callers === 64 && ROUNDS_OF[n]! <= 100;
  return true;
}

function turnOf({ callers, n }: DispatchPoint): typeof SHORT {
  return callers === 1 || ROUNDS_OF[n]! < 1_000 ? SHORT : LONG;
}

const candidates = candidatesOf(Object.keys(ROSTER) as ContenderName[], buildsOf(options)).map(
  (candidate): Candidate & Named<DispatchPoint> => ({
    ...candidate,
    takesPart: (point) => takesPart(candidate.contender, point),
  }),
);
// Before any process starts, so that a wrong --only is told at once.
const points = choosePoints(
  CALLERS.flatMap((callers) => SIZES.map((n): DispatchPoint => ({ callers, n }))),
  options,
);

await using server = await startRedis();
await fillKeys(server.admin);

async function oneRound(round: number): Promise<Row<DispatchPoint>[]> {
  const contenders = chooseContenders(candidates, options).map((candidate) => ({
    ...candidate,
    process: new ContenderProcess(candidate, server.port),
  }));
  // All threads up, before anybody's code is warmed: a start takes a core.
  for (const { process } of contenders) await process.rate({ callers: 64, rounds: 0, ms: 0 });
  // In turn: who is warmed first is a sixth slower with one caller for as long as it lives, of two with the same code.
  for (const at of turns(contenders.length, round)) {
    const { contender, process } = contenders[at]!;
    if (SLOW.has(contender)) await process.rate({ callers: 64, rounds: 0, ms: SHORT.ms });
    else for (const warmUp of WARM_UPS) await process.rate({ ...warmUp, rounds: 0 });
  }
  const rows = await interleave(
    {
      points,
      contenders,
      rounds: (point) => turnOf(point).turns,
      pass: round,
      measure: ({ process }, point) => {
        const { leadMs, ms } = turnOf(point);
        return process.rate({ callers: point.callers, rounds: ROUNDS_OF[point.n]!, leadMs, ms });
      },
    },
    options,
  );
  for (const { process } of contenders) await process[Symbol.asyncDispose]();
  return rows;
}

const byRound: Row<DispatchPoint>[][] = [];
for (let round = 0; round < ROUNDS; round++) byRound.push(await oneRound(round));
const rows = mergeRounds(byRound);
report(
  {
    name: "dispatch",
    question: "tasks of GET 4 kB + n x sha256 + SET through 2 threads, from callers that wait for theirs",
    metrics: [
      { key: "tasksPerSecond", title: "tasks/s" },
      { key: "cpuPerTask", title: "CPU µs/task" },
    ],
    reference: "redthread run()",
    rows,
    notes: [
      "CPU is the whole process's, of all its threads; the server's is not in it",
      "each contender has a process to itself in each round; they take turns, each with a lead that does not count",
    ],
    chart: {
      title: "Tasks per second: GET 4 kB + n x sha256 + SET, 2 threads",
      yTitle: "tasks per second",
      xTitle: "n (10ms: that much CPU)",
      kind: "bars",
      isLog: true,
      panels: CALLERS.map((callers) =>
        panelOf(rows, {
          title: `${callers} ${callers === 1 ? "caller" : "callers"}`,
          x: "n",
          metric: "tasksPerSecond",
          where: (point) => point.callers === callers,
        }),
      ),
    },
  },
  options,
);
