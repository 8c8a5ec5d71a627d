/**
 * What does a lock cost beside other libraries and the same scripts by hand, what do renewals cost the server, and can two
 * hold the same lock?
 */
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "../test/support/gate.js";
import { startRedis } from "../test/support/redis-server.js";
import { openManager } from "./contenders/redthread/redthread.js";
import type * as Tasks from "./leases/tasks.js";
import { benchmark, isSmoke } from "./support/benchmark.js";
import { quantile, type Row, type Sample } from "./support/interleave.js";

const TTL_MS = 10_000;
const CYCLE_MS = isSmoke ? 30 : 500;
const CALLERS = 8;
const CALLS = isSmoke ? 1_000 : 1_000_000;
const LOCKS = isSmoke ? 50 : 1_000;
const HOLD_MS = isSmoke ? 1_000 : 20_000;
const TRIALS = isSmoke ? 1 : 10;
/** Of the lock whose holder computes for three times as long. */
const SHORT_TTL_MS = 500;
const TRY_EVERY_MS = 25;

interface Measured {
  readonly contender: string;
  readonly key: string;
}

await using server = await startRedis({ args: ["--slowlog-max-len", "100000"] });
const { admin } = server;
const options = { redis: { port: server.port } };
await using one = openManager<typeof Tasks>({ ...options, threads: { count: 1 } }, "leases/tasks.js");
await using two = openManager<typeof Tasks>({ ...options, threads: { count: 2 } }, "leases/tasks.js");
await Promise.all([one.ready(), two.ready()]);

/** The callers are tasks of the same thread. */
async function cycle(measured: Measured, callers: number, isTogether: boolean): Promise<Sample> {
  const input = { ...measured, ttlMs: TTL_MS, ms: CYCLE_MS, together: isTogether ? callers : undefined };
  const done = await Promise.all(Array.from({ length: callers }, () => one.run("cycle", input)));
  const samples = done.flatMap((task) => task.samples);
  const tookMs = Math.max(...done.map(({ endedAt }) => endedAt)) - Math.min(...done.map(({ startedAt }) => startedAt));
  return {
    "locks/s": (1_000 * samples.length) / tookMs,
    "p50, µs": 1_000 * quantile(samples, 0.5),
    "p99, µs": 1_000 * quantile(samples, 0.99),
  };
}

/** What the server does while nothing but renewals is sent to it. */
async function renewals({ contender, key }: Measured): Promise<Sample> {
  await one.run("holdAll", { contender, key, ttlMs: HOLD_MS / 2, locks: LOCKS });
  await admin.config("SET", "slowlog-log-slower-than", "0");
  await admin.slowlog("RESET");
  await admin.config("RESETSTAT");
  await sleep(HOLD_MS);
  const calls = scriptCalls(await admin.info("commandstats"));
  const log = (await admin.slowlog("GET", "-1")) as [number, number, micros: number, command: string[]][];
  await admin.config("SET", "slowlog-log-slower-than", "-1");
  await one.run("releaseAll");
  const micros = log.filter(([, , , [name]]) => /^eval/i.test(name!)).map(([, , time]) => time);
  return {
    "scripts/s": (1_000 * calls) / HOLD_MS,
    "p99 of a script, µs": micros.length > 0 ? quantile(micros, 0.99) : 0,
  };
}

function scriptCalls(commandstats: string): number {
  const counts = [...commandstats.matchAll(/^cmdstat_eval(?:sha)?:calls=(\d+)/gm)].map(([, count]) => Number(count));
  return counts.reduce((sum, count) => sum + count, 0);
}

/** In how many trials a rival in another thread got the lock while the holder, which computes, believed that it held it. */
async function doubleHolders({ contender, key }: Measured): Promise<Sample> {
  let doubled = 0;
  for (let trial = 0; trial < TRIALS; trial++) {
    const wanted = { contender, key: `${key}:${trial}`, ttlMs: SHORT_TTL_MS };
    const ms = 3 * SHORT_TTL_MS;
    const computing = two.run("compute", { ...wanted, ms }, { exclusive: true });
    await eventually(async () => (await admin.exists(wanted.key)) === 1, 30_000, "the lock is held");
    const gotAt = await two.run("rival", { ...wanted, ms, everyMs: TRY_EVERY_MS });
    if (gotAt !== undefined && gotAt < (await computing)) doubled++;
    await computing;
  }
  return { [`rivals with the lock, of ${TRIALS}`]: doubled };
}

interface Part {
  readonly part: string;
  readonly rounds: number;
  readonly contenders: (contender: string) => boolean;
  readonly measure: (measured: Measured) => Promise<Sample>;
}

const LIBRARIES = ["redthread", "redlock", "redlock-universal"];
const CONTENDERS = [...LIBRARIES, "same scripts by hand", "bare SET NX"];
const parts: readonly Part[] = [
  { part: "one caller", rounds: 15, contenders: () => true, measure: (on) => cycle(on, 1, false) },
  {
    part: `${CALLERS} callers, each asks again at once`,
    rounds: 5,
    contenders: () => true,
    measure: (on) => cycle(on, CALLERS, false),
  },
  {
    part: `${CALLERS} callers at the same moment`,
    rounds: 5,
    contenders: () => true,
    measure: (on) => cycle(on, CALLERS, true),
  },
  {
    part: "assertHeld()",
    rounds: 9,
    contenders: (name) => name === "redthread",
    measure: async ({ key }) => ({ ns: await one.run("assertHeld", { key, calls: CALLS }) }),
  },
  {
    part: `${LOCKS} locks held for ${HOLD_MS / 1_000} s`,
    rounds: 1,
    contenders: (name) => LIBRARIES.includes(name),
    measure: renewals,
  },
  {
    part: "a holder computes for 3 x ttl",
    rounds: 1,
    contenders: (name) => LIBRARIES.includes(name),
    measure: doubleHolders,
  },
];
const partOf = (point: Row["point"]): Part => parts.find(({ part }) => part === point["part"])!;

/** One row per figure, because the parts have few figures in common. */
function figures({ point, contender, metrics }: Row): Row[] {
  return Object.entries(metrics).map(([figure, value]) => ({
    point: { ...point, figure },
    contender,
    metrics: { value },
  }));
}

function panel(at: number, figure: string) {
  const { part } = parts[at]!;
  const where = (point: Row["point"]): boolean => point["part"] === part && point["figure"] === figure;
  return { title: `${figure}: ${part}`, x: "figure", metric: "value", where, yTitle: "" };
}

let keys = 0;
// The first lock of a thread loads code and starts the keeper.
for (const contender of CONTENDERS) await cycle({ contender, key: "warm" }, 1, false);
await benchmark({
  question: "locks beside other libraries and the same scripts by hand, all with the same client in a thread",
  columns: { value: "value" },
  reference: "redthread",
  points: parts.map(({ part }) => ({ part })),
  contenders: CONTENDERS.map((name) => ({
    name,
    takesPart: (point: Row["point"]) => partOf(point).contenders(name),
  })),
  rounds: (point) => (isSmoke ? 1 : partOf(point).rounds),
  measure: ({ name }, point) => partOf(point).measure({ contender: name, key: `leases:${keys++}` }),
  derive: (rows) => rows.flatMap(figures),
  notes: [
    `${CALLERS} callers: redlock tries again after 100 to 300 ms, redlock-universal after 100 ms (their defaults), by hand 10 ms`,
    "asks again at once: a caller that releases the lock mostly gets it again, before a caller that sleeps tries",
    `scripts/s: EVAL and EVALSHA, while nothing but renewals is sent; ttl ${HOLD_MS / 2_000} s; p99 by SLOWLOG`,
    `a holder computes: ttl ${SHORT_TTL_MS} ms; a rival in another thread tries every ${TRY_EVERY_MS} ms, with the same library`,
    "by hand and bare: acquire, and compare and delete, without renewal",
  ],
  chart: {
    title: "Locks",
    panels: [
      panel(0, "locks/s"),
      panel(1, "locks/s"),
      panel(2, "locks/s"),
      panel(4, "scripts/s"),
      panel(5, `rivals with the lock, of ${TRIALS}`),
    ],
  },
});
