/**
 * How many tasks per second do plain `run()` calls give, beside what one writes by hand? GET 4 kB, n x sha256, SET;
 * n = "10ms" is as many as keep a core busy for so long.
 */
import { startRedis } from "../test/support/redis-server.js";
import {
  bare,
  connectionPerTask,
  cpuAlone,
  glide,
  nodeRedis,
  piscinaDefaults,
  piscinaTuned,
  proxy,
} from "./contenders/by-hand.js";
import { bullmq } from "./contenders/bullmq.js";
import { type Contender, type Entrant, openAll } from "./contenders/contender.js";
import { redthread, redthreadMap } from "./contenders/redthread.js";
import { chooseContenders, interleave, type Named, type Sample } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { type Item, roundsOf } from "./work.js";

interface DispatchPoint extends Record<string, string | number> {
  readonly callers: number;
  readonly n: string;
}

const THREADS = 2;
const KEYS = 256;
/** Of the bare prototype: the best of 1, 2 and 4 at 64 callers. */
const BATCHES_AT_ONCE = 4;
const options = parseBenchOptions();
const CALLERS = options.isSmoke ? [64] : [1, 8, 64];
const ROUNDS = options.isSmoke ? 1 : 5;
const ROUND_MS = options.isSmoke ? 20 : 200;
const WARM_MS = options.isSmoke ? 20 : 1_000;
const SLOW_ROUND_MS = options.isSmoke ? 20 : 150;

const roundsPerTask = new Map<string, number>([
  ["0", 0],
  ["20", 20],
  ["100", 100],
  ["1000", 1_000],
  ["10ms", roundsOf(10)],
]);
const sizes = options.isSmoke ? ["0", "100"] : [...roundsPerTask.keys()];
const points = CALLERS.flatMap((callers) => sizes.map((n): DispatchPoint => ({ callers, n })));

/** Slow ones are asked twice, and more briefly. */
const SLOW = {
  roundMs: SLOW_ROUND_MS,
  takesPart: ({ callers, n }: DispatchPoint) => callers === 64 && (n === "0" || n === "100"),
};

interface Candidate extends Entrant, Named<DispatchPoint> {
  readonly roundMs?: number;
}

async function measure(
  { drive, roundMs = ROUND_MS }: Candidate & Contender,
  { callers, n }: DispatchPoint,
): Promise<Sample> {
  const rounds = roundsPerTask.get(n)!;
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  let tasks = 0;
  function* items(): Generator<Item> {
    for (; tasks < callers || performance.now() - startedAt < roundMs; tasks++)
      yield { key: `bench:${tasks % KEYS}`, rounds };
  }
  await drive(items(), callers);
  const seconds = (performance.now() - startedAt) / 1_000;
  const { user, system } = process.cpuUsage(cpuBefore); // of all threads
  return { tasksPerSecond: tasks / seconds, cpuPerTask: (user + system) / tasks };
}

await using server = await startRedis();
for (let i = 0; i < KEYS; i++) await server.admin.set(`bench:${i}`, "x".repeat(4_096));
const place = { port: server.port, threads: THREADS };
const roster: readonly Candidate[] = [
  { name: "redthread run()", open: () => redthread(place) },
  { name: "redthread map()", open: () => redthreadMap(place) },
  { name: "piscina + global ioredis", open: () => piscinaDefaults(place) },
  { name: "the same, tuned", open: () => piscinaTuned(place) },
  { name: "main thread as proxy", open: () => proxy(place) },
  { name: "bare batches of 16", open: () => bare({ ...place, batchesAtOnce: BATCHES_AT_ONCE }) },
  {
    name: "no Redis, the CPU's part alone",
    open: () => cpuAlone({ ...place, batchesAtOnce: BATCHES_AT_ONCE }),
    // Batches of longer tasks would be too few for a round.
    takesPart: ({ callers, n }) => callers === 64 && roundsPerTask.get(n)! <= 100,
  },
  { name: "piscina tuned + node-redis", open: () => nodeRedis(place) },
  { name: "connection per task", open: () => connectionPerTask(place), ...SLOW },
  { name: "piscina tuned + valkey-glide", open: () => glide(place), ...SLOW },
  { name: "BullMQ sandboxed threads", open: () => bullmq(place), ...SLOW },
];
const contenders = await openAll(chooseContenders(roster, options));
const warmUp = { callers: 64, n: "0" };
// All threads up, before anybody's code is warmed: a start takes a core.
for (const contender of contenders) await measure({ ...contender, roundMs: 0 }, warmUp);
for (const contender of contenders) await measure({ ...contender, roundMs: WARM_MS }, warmUp);
const rows = await interleave({ points, contenders, rounds: ROUNDS, measure }, options);
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
    notes: ["CPU is the whole process's, of all its threads; the server's is not in it"],
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
for (const { close } of contenders) await close();
