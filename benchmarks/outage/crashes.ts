import { CountedLoad } from "../../test/support/counted-load.js";
import { type RedisServer, startRedis } from "../../test/support/redis-server.js";
import { pool, TUNED } from "../contenders/by-hand/by-hand.js";
import { openManager } from "../contenders/redthread/redthread.js";
import type * as Tasks from "../contenders/redthread/tasks.js";
import type { Rival, Sample } from "../support/interleave.js";

const THREADS = 4;
const CALLERS = 32;
const CALLS_BETWEEN = 100;
const MGET = 1_000;

/** Redis is killed under INCRs that each have their own key: a key whose INCR ran twice holds a 2. */
export function crashRivals(crashes: number): Rival[] {
  return [
    { name: "redthread", measure: () => withServer((server) => redthread(server, crashes)) },
    { name: "piscina tuned + ioredis defaults", measure: () => withServer((server) => byHand(server, crashes)) },
  ];
}

async function withServer(measure: (server: RedisServer) => Promise<Sample>): Promise<Sample> {
  // An acknowledged write is on the disk, so that a lost one is the client's fault.
  await using server = await startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
  return await measure(server);
}

async function redthread(server: RedisServer, crashes: number): Promise<Sample> {
  await using manager = openManager<typeof Tasks>({ redis: { port: server.port }, threads: { count: THREADS } });
  await manager.ready();
  return await crash(server, crashes, (key) => manager.run("incr", key));
}

async function byHand(server: RedisServer, crashes: number): Promise<Sample> {
  const threads = pool("by-hand/tasks.js", { port: server.port, threads: THREADS }, { ...TUNED, name: "incr" });
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
  const lost = load.ledger
    .keys()
    .filter((key) => load.ledger.judge(key, counters.get(key) ?? 0).some((problem) => problem.includes(": lost")));
  return {
    "run twice": [...counters.values()].filter((counter) => counter > 1).length,
    "acknowledged and lost": lost.length,
    acknowledged: load.ledger.totals.acknowledged,
    "told that it may have run": load.ledger.totals.uncertain,
    "slowest call, ms": load.ledger.slowestMs,
  };
}

/** The server decides, not what the callers were told. */
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
