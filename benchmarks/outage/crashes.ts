import { fileURLToPath } from "node:url";
import { Piscina } from "piscina";
import { ConnectionManager } from "redthread";
import { CountedLoad } from "../../test/support/counted-load.js";
import { silent } from "../../test/support/silent.js";
import { type RedisServer, startRedis } from "../../test/support/redis-server.js";
import type * as Tasks from "../contenders/outage-tasks.js";
import type { Place } from "../contenders/place.js";
import type { Sample } from "../support/interleave.js";
import { REDTHREAD, type Rival, TASKS } from "./rival.js";

const THREADS = 4;
const CALLERS = 32;
const CALLS_BETWEEN = 100;
const MGET = 1_000;

/** Redis is killed under writes that each have a key of their own: one that ran twice is a 2. */
export function crashRivals(crashes: number): Rival[] {
  return [
    { name: REDTHREAD, measure: () => withServer((server) => redthread(server, crashes)) },
    { name: "piscina tuned + ioredis defaults", measure: () => withServer((server) => byHand(server, crashes)) },
  ];
}

async function withServer(measure: (server: RedisServer) => Promise<Sample>): Promise<Sample> {
  // What was acknowledged is on the disk: a loss would be the client's.
  await using server = await startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
  return await measure(server);
}

async function redthread(server: RedisServer, crashes: number): Promise<Sample> {
  await using manager = new ConnectionManager<typeof Tasks>({
    tasks: TASKS,
    env: {},
    logger: silent,
    redis: { port: server.port },
    threads: { count: THREADS },
  });
  await manager.ready();
  return await crash(server, crashes, (key) => manager.run("incr", key));
}

async function byHand(server: RedisServer, crashes: number): Promise<Sample> {
  const threads = new Piscina({
    filename: fileURLToPath(new URL("../contenders/incr-global.js", import.meta.url)),
    minThreads: THREADS,
    maxThreads: THREADS,
    concurrentTasksPerWorker: 16,
    atomics: "disabled",
    workerData: { port: server.port } satisfies Place,
  });
  try {
    return await crash(server, crashes, (key) => threads.run(key));
  } finally {
    await threads.destroy();
  }
}

async function crash(server: RedisServer, crashes: number, write: (key: string) => Promise<unknown>): Promise<Sample> {
  const load = new CountedLoad({ callers: CALLERS, write });
  for (let i = 0; i < crashes; i++) {
    await load.progress(CALLS_BETWEEN);
    await server.kill();
    await server.start();
  }
  await load.progress(CALLS_BETWEEN);
  await load.stop();
  const counters = await countersOf(server);
  const lost = load.ledger.keys().filter((key) => load.ledger.judge(key, counters.get(key) ?? 0).some(isLoss));
  return {
    "run twice": [...counters.values()].filter((counter) => counter > 1).length,
    "acknowledged and lost": lost.length,
    acknowledged: load.ledger.totals.acknowledged,
    "told that it may have run": load.ledger.totals.uncertain,
    "slowest call, ms": load.ledger.slowestMs,
  };
}

function isLoss(problem: string): boolean {
  return problem.includes(": lost");
}

/** By the server, not by what the callers were told. */
async function countersOf(server: RedisServer): Promise<Map<string, number>> {
  const keys = await server.admin.keys("call:*");
  const counters = new Map<string, number>();
  for (let from = 0; from < keys.length; from += MGET) {
    const some = keys.slice(from, from + MGET);
    const values = await server.admin.mget(some);
    for (const [at, key] of some.entries()) counters.set(key, Number(values[at] ?? 0));
  }
  return counters;
}
