import { Redis } from "ioredis";
import type { Logger } from "redthread";
import { eventually } from "../../test/support/gate.js";
import { type RedisServer, startRedis } from "../../test/support/redis-server.js";
import { openManager } from "../contenders/redthread/redthread.js";
import type * as Tasks from "../contenders/redthread/tasks.js";
import type { Rival, Sample } from "../support/interleave.js";

export const CALLERS = 64;
const THREADS = 2;
const PAUSE_MS = 100;

/** Redis is away, its port is closed, and callers go on calling: how long does each call take? */
export function callerRivals(whenDown: "wait" | "fail", awayMs: number): Rival[] {
  const name = whenDown === "wait" ? "ioredis, defaults" : "ioredis, no offline queue";
  return [
    { name: "redthread", measure: () => redthread(whenDown, awayMs) },
    { name, measure: () => byHand(whenDown, awayMs) },
  ];
}

async function redthread(whenDown: "wait" | "fail", awayMs: number): Promise<Sample> {
  await using server = await startRedis();
  let lines = 0;
  const count = (): void => void lines++;
  const logger: Logger = { debug() {}, info: count, warn: count, error: count };
  const redis = { port: server.port, whenDown };
  await using manager = openManager<typeof Tasks>({ logger, redis, threads: { count: THREADS } });
  await manager.ready();
  const connected = async (): Promise<boolean> => {
    await Promise.all(Array.from({ length: CALLERS }, () => manager.run("incr", "n")));
    return manager.stats().connections.open === THREADS + 1;
  };
  await eventually(connected, 30_000);
  lines = 0;
  const calls = [() => manager.use((client) => client.incr("n")), () => manager.run("incr", "n")];
  const isAway = (): boolean => manager.stats().connections.open === 0;
  return { ...(await outlast(server, calls, isAway, awayMs)), "log lines": lines };
}

async function byHand(whenDown: "wait" | "fail", awayMs: number): Promise<Sample> {
  await using server = await startRedis();
  const redis = new Redis(server.port, { enableOfflineQueue: whenDown === "wait" });
  let lines = 0;
  redis.on("error", () => lines++);
  try {
    await eventually(async () => (await redis.incr("n")) > 0, 30_000);
    lines = 0;
    const calls = [() => redis.incr("n")];
    const isAway = (): boolean => redis.status !== "ready";
    return { ...(await outlast(server, calls, isAway, awayMs)), "log lines": lines };
  } finally {
    redis.disconnect();
  }
}

async function outlast(
  server: RedisServer,
  calls: readonly (() => Promise<unknown>)[],
  isAway: () => boolean,
  awayMs: number,
): Promise<Sample> {
  await server.kill();
  await eventually(isAway, 30_000);
  let [isOver, failed] = [false, 0];
  const took: number[] = [];
  const caller = async (call: () => Promise<unknown>): Promise<void> => {
    while (!isOver) {
      const startedAt = performance.now();
      await call().catch(() => failed++);
      took.push(performance.now() - startedAt);
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  };
  const callers = Array.from({ length: CALLERS }, (_, i) => caller(calls[i % calls.length]!));
  await new Promise((resolve) => setTimeout(resolve, awayMs));
  await server.start();
  isOver = true;
  await Promise.all(callers);
  took.sort((a, b) => a - b);
  return { "slowest call, ms": took.at(-1)!, "p99 of a call, ms": took[Math.floor(took.length * 0.99)]!, failed };
}
