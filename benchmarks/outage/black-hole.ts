import { Redis, type RedisOptions } from "ioredis";
import { ConnectionManager } from "redthread";
import { silent } from "../../test/support/silent.js";
import { type Proxy, startProxy } from "../../test/support/proxy.js";
import { startRedis } from "../../test/support/redis-server.js";
import type * as Tasks from "../contenders/outage-tasks.js";
import type { Sample } from "../support/interleave.js";
import { Demand } from "./demand.js";
import { REDTHREAD, type Rival, TASKS } from "./rival.js";

export interface BlackHoleCase {
  /** How the path comes back: with what it has swallowed, or, as behind a new NAT, for new connections only. */
  readonly back: "whole" | "for new connections";
  readonly darkMs: number;
  readonly capMs: number;
}

const CLIENTS = 4;
const CALLERS_EACH = 4;
const NOTICE_MS = 1_000;

/** Packets vanish both ways under load, then pass again: how long until every client serves? */
export function blackHoleRivals(of: BlackHoleCase): Rival[] {
  // What an engineer sets who has read ioredis' options after such an outage.
  const tuned = { commandTimeout: NOTICE_MS, socketTimeout: NOTICE_MS, connectTimeout: NOTICE_MS };
  return [
    { name: REDTHREAD, measure: () => withProxy((proxy) => redthread(proxy, of)) },
    { name: "ioredis, defaults", measure: () => withProxy((proxy) => byHand(proxy, of)) },
    { name: "ioredis, its three timeouts", measure: () => withProxy((proxy) => byHand(proxy, of, tuned)) },
  ];
}

async function withProxy(measure: (proxy: Proxy) => Promise<Sample>): Promise<Sample> {
  await using server = await startRedis();
  await using proxy = await startProxy(server.port);
  return await measure(proxy);
}

async function redthread(proxy: Proxy, of: BlackHoleCase): Promise<Sample> {
  await using manager = new ConnectionManager<typeof Tasks>({
    tasks: TASKS,
    env: {},
    logger: silent,
    redis: { port: proxy.port, heartbeatMs: NOTICE_MS, commandTimeoutMs: NOTICE_MS, connectTimeoutMs: NOTICE_MS },
    threads: { count: CLIENTS },
  });
  await manager.ready();
  const call = async (): Promise<string> => `thread ${await manager.run("incr", "n")}`;
  const calls = Array.from({ length: CLIENTS * CALLERS_EACH }, () => call);
  return await cross(proxy, new Demand(calls), of);
}

async function byHand(
  proxy: Proxy,
  of: BlackHoleCase,
  options: Omit<RedisOptions, "replyMapping"> = {},
): Promise<Sample> {
  const clients = Array.from({ length: CLIENTS }, () => new Redis(proxy.port, options).on("error", () => undefined));
  try {
    const calls = Array.from({ length: CLIENTS * CALLERS_EACH }, (_, at) => async () => {
      await clients[at % CLIENTS]!.incr("n");
      return `client ${at % CLIENTS}`;
    });
    return await cross(proxy, new Demand(calls), of);
  } finally {
    for (const redis of clients) redis.disconnect();
  }
}

async function cross(proxy: Proxy, demand: Demand, { back, darkMs, capMs }: BlackHoleCase): Promise<Sample> {
  await demand.msUntilAnswered(CLIENTS, capMs); // all are connected
  proxy.blackhole(true);
  await new Promise((resolve) => setTimeout(resolve, darkMs));
  if (back === "whole") proxy.blackhole(false);
  else proxy.strand();
  const backMs = await demand.msUntilAnswered(CLIENTS, capMs);
  demand.stop();
  return { "all serve again after, ms": backMs };
}
