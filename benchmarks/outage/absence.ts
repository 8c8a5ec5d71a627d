import { Redis } from "ioredis";
import { ConnectionManager } from "redthread";
import { hangUpOn } from "../../test/support/hang-up.js";
import { silent } from "../../test/support/silent.js";
import { type RedisServer, startRedis } from "../../test/support/redis-server.js";
import type * as Tasks from "../contenders/outage-tasks.js";
import type { Sample } from "../support/interleave.js";
import { Demand } from "./demand.js";
import { REDTHREAD, type Rival, TASKS } from "./rival.js";

const THREADS = 8;
const DEDICATED = 4;
const CAP_MS = 30_000;

/** Redis is away, and whoever sits in its place hangs up on everybody and counts. */
export function absenceRivals(awayMs: number): Rival[] {
  return [
    { name: REDTHREAD, measure: () => redthread(awayMs) },
    { name: `${THREADS * (1 + DEDICATED)} ioredis clients, defaults`, measure: () => byHand(awayMs) },
  ];
}

async function redthread(awayMs: number): Promise<Sample> {
  await using server = await startRedis();
  await using manager = new ConnectionManager<typeof Tasks>({
    tasks: TASKS,
    env: {},
    logger: silent,
    redis: { port: server.port },
    threads: { count: THREADS },
    dedicated: { max: DEDICATED },
  });
  await manager.ready();
  const call = async (): Promise<string> => `thread ${await manager.run("incrTwice", "n")}`;
  const calls = Array.from({ length: THREADS * DEDICATED }, () => call);
  return await outlast(server, new Demand(calls), THREADS, awayMs);
}

async function byHand(awayMs: number): Promise<Sample> {
  await using server = await startRedis();
  const clients = Array.from({ length: THREADS * (1 + DEDICATED) }, () =>
    new Redis(server.port).on("error", () => undefined),
  );
  try {
    const calls = clients.map((redis, at) => async () => {
      await redis.incr("n");
      return `client ${at}`;
    });
    return await outlast(server, new Demand(calls), clients.length, awayMs);
  } finally {
    for (const redis of clients) redis.disconnect();
  }
}

async function outlast(server: RedisServer, demand: Demand, answering: number, awayMs: number): Promise<Sample> {
  await demand.msUntilAnswered(answering, CAP_MS); // all are connected
  await server.kill();
  const away = await hangUpOn(server.port);
  await new Promise((resolve) => setTimeout(resolve, awayMs));
  const attempts = away.attempts();
  away.server.close();
  await server.start();
  const backMs = await demand.msUntilAnswered(answering, CAP_MS);
  demand.stop();
  return { "attempts to connect": attempts, "of them at once": away.atOnce(), "all serve again after, ms": backMs };
}
