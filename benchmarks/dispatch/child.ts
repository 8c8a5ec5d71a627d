/** One round of all contenders, in a process of its own; prints its rows. */
import {
  bare,
  connectionPerTask,
  cpuAlone,
  glide,
  nodeRedis,
  piscinaDefaults,
  piscinaTuned,
  proxy,
} from "../contenders/by-hand.js";
import { bullmq } from "../contenders/bullmq.js";
import { type Contender, type Entrant, openAll } from "../contenders/contender.js";
import { redthread, redthreadMap } from "../contenders/redthread.js";
import { chooseContenders, interleave, type Named, type Row, type Sample } from "../support/interleave.js";
import { roundInput } from "../support/own-processes.js";
import type { Item } from "../work.js";

export interface DispatchPoint extends Record<string, string | number> {
  readonly callers: number;
  readonly n: string;
}

export interface RoundInput {
  readonly port: number;
  /** There are `bench:0` to one less. */
  readonly keys: number;
  readonly round: number;
  readonly points: readonly DispatchPoint[];
  /** By what `n` says. */
  readonly roundsPerTask: Readonly<Record<string, number>>;
}

interface Candidate extends Entrant, Named<DispatchPoint> {
  /** Asked at two points only, and warmed for less. */
  readonly isSlow?: boolean;
}

const THREADS = 2;
/** Of the bare prototype: the best of 1, 2 and 4 at 64 callers. */
const BATCHES_AT_ONCE = 4;
const { input: given, options } = roundInput();
const input = given as RoundInput;
/** A turn of each contender, and how often it comes: what the machine does for longer falls on all of them. */
const SHORT = options.isSmoke ? { turns: 1, ms: 20 } : { turns: 4, ms: 40 };
/** Tasks of a millisecond or more would be too few for a short one. */
const LONG = options.isSmoke ? SHORT : { turns: 1, ms: 200 };
/** Until the compiler has seen enough: throughput grows for so long. */
const WARM_MS = options.isSmoke ? 20 : 1_000;

const place = { port: input.port, threads: THREADS };
const SLOW = {
  isSlow: true,
  takesPart: ({ callers, n }: DispatchPoint) => callers === 64 && (n === "0" || n === "100"),
};
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
    takesPart: ({ callers, n }) => callers === 64 && input.roundsPerTask[n]! <= 100,
  },
  { name: "piscina tuned + node-redis", open: () => nodeRedis(place) },
  { name: "connection per task", open: () => connectionPerTask(place), ...SLOW },
  { name: "piscina tuned + valkey-glide", open: () => glide(place), ...SLOW },
  { name: "BullMQ sandboxed threads", open: () => bullmq(place), ...SLOW },
];

async function measure({ drive }: Contender, { callers, n }: DispatchPoint, roundMs: number): Promise<Sample> {
  const rounds = input.roundsPerTask[n]!;
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  let tasks = 0;
  function* items(): Generator<Item> {
    for (; tasks < callers || performance.now() - startedAt < roundMs; tasks++)
      yield { key: `bench:${tasks % input.keys}`, rounds };
  }
  await drive(items(), callers);
  const seconds = (performance.now() - startedAt) / 1_000;
  const { user, system } = process.cpuUsage(cpuBefore); // of all threads
  return { tasksPerSecond: tasks / seconds, cpuPerTask: (user + system) / tasks };
}

const contenders = await openAll(chooseContenders(roster, options));
// All threads up, before anybody's code is warmed: a start takes a core.
for (const contender of contenders) await measure(contender, { callers: 64, n: "0" }, 0);
for (const contender of contenders) {
  await measure(contender, { callers: 64, n: "0" }, contender.isSlow ? SHORT.ms : WARM_MS);
  if (!contender.isSlow) await measure(contender, { callers: 1, n: "0" }, SHORT.ms);
}
const rows: Row<DispatchPoint>[] = [];
for (const point of input.points) {
  const { turns, ms } = input.roundsPerTask[point.n]! < 1_000 ? SHORT : LONG;
  const interleaving = {
    points: [point],
    contenders,
    rounds: turns,
    firstRound: input.round * turns,
    measure: (contender: Candidate & Contender) => measure(contender, point, ms),
  };
  rows.push(...(await interleave(interleaving, options)));
}
console.log(JSON.stringify(rows));
for (const { close } of contenders) await close();
