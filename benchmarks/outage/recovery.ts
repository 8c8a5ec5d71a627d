import { Redis, type RedisOptions } from "ioredis";
import { hangUpOn } from "../../test/support/hang-up.js";
import { type Proxy, startProxy } from "../../test/support/proxy.js";
import { type RedisServer, startRedis } from "../../test/support/redis-server.js";
import { openManager } from "../contenders/redthread/redthread.js";
import type * as Tasks from "../contenders/redthread/tasks.js";
import type { Rival, Sample } from "../support/interleave.js";

export interface BlackHoleCase {
  /** The path comes back with what it has swallowed, or, as behind a new NAT, for new connections only. */
  readonly back: "whole" | "for new connections";
  readonly darkMs: number;
  readonly capMs: number;
}

/** Resolves to the name of the client that answered. */
type Call = () => Promise<string>;

const PAUSE_MS = 10;
const AWAY = { threads: 8, dedicated: 4, clients: 40, capMs: 30_000 };
const DARK = { clients: 4, callers: 16, noticeMs: 1_000 };

/** Redis is away, and a listener on its port hangs up on every connection and counts them. */
export function absenceRivals(awayMs: number): Rival[] {
  const { threads, dedicated, clients } = AWAY;
  return [
    {
      name: "redthread",
      async measure() {
        await using server = await startRedis();
        const { port } = server;
        await using manager = openManager<typeof Tasks>({
          redis: { port },
          threads: { count: threads },
          dedicated: { max: dedicated },
        });
        await manager.ready();
        const call: Call = async () => `thread ${await manager.run("incrTwice", "n")}`;
        const calls = Array.from({ length: threads * dedicated }, () => call);
        return await outlast(server, new Demand(calls), threads, awayMs);
      },
    },
    {
      name: `${clients} ioredis clients, defaults`,
      async measure() {
        await using server = await startRedis();
        return await withClients({ port: server.port }, clients, (calls) =>
          outlast(server, new Demand(calls), clients, awayMs),
        );
      },
    },
  ];
}

/** Packets vanish both ways under load, then pass again: how long until every client serves? */
export function blackHoleRivals(of: BlackHoleCase): Rival[] {
  const { clients, callers, noticeMs } = DARK;
  const byHand = (name: string, options: ClientOptions = {}): Rival => ({
    name,
    async measure() {
      await using server = await startRedis();
      await using proxy = await startProxy(server.port);
      return await withClients({ ...options, port: proxy.port }, clients, (calls) => {
        const all = Array.from({ length: callers }, (_, at) => calls[at % clients]!);
        return cross(proxy, new Demand(all), of);
      });
    },
  });
  return [
    {
      name: "redthread",
      async measure() {
        await using server = await startRedis();
        await using proxy = await startProxy(server.port);
        const deadlines = { heartbeatMs: noticeMs, commandTimeoutMs: noticeMs, connectTimeoutMs: noticeMs };
        const options = { redis: { port: proxy.port, ...deadlines }, threads: { count: clients } };
        await using manager = openManager<typeof Tasks>(options);
        await manager.ready();
        const call: Call = async () => `thread ${await manager.run("incr", "n")}`;
        return await cross(proxy, new Demand(Array.from({ length: callers }, () => call)), of);
      },
    },
    byHand("ioredis, defaults"),
    // What an engineer sets after such an outage and a look at ioredis' options.
    byHand("ioredis, its three timeouts", {
      commandTimeout: noticeMs,
      socketTimeout: noticeMs,
      connectTimeout: noticeMs,
    }),
  ];
}

type ClientOptions = Omit<RedisOptions, "replyMapping">;

async function withClients(
  options: ClientOptions,
  count: number,
  measure: (calls: readonly Call[]) => Promise<Sample>,
): Promise<Sample> {
  const clients = Array.from({ length: count }, () => new Redis(options).on("error", () => undefined));
  try {
    const calls = clients.map((redis, at) => async () => {
      await redis.incr("n");
      return `client ${at}`;
    });
    return await measure(calls);
  } finally {
    for (const redis of clients) redis.disconnect();
  }
}

async function outlast(server: RedisServer, demand: Demand, answering: number, awayMs: number): Promise<Sample> {
  await demand.msUntilAnswered(answering, AWAY.capMs); // all are connected
  await server.kill();
  const away = await hangUpOn(server.port);
  await new Promise((resolve) => setTimeout(resolve, awayMs));
  const attempts = away.attempts();
  away.server.close();
  await server.start();
  const backMs = await demand.msUntilAnswered(answering, AWAY.capMs);
  demand.stop();
  return { "attempts to connect": attempts, "of them at once": away.atOnce(), "all serve again after, ms": backMs };
}

async function cross(proxy: Proxy, demand: Demand, { back, darkMs, capMs }: BlackHoleCase): Promise<Sample> {
  await demand.msUntilAnswered(DARK.clients, capMs); // all are connected
  proxy.blackhole(true);
  await new Promise((resolve) => setTimeout(resolve, darkMs));
  if (back === "whole") proxy.blackhole(false);
  else proxy.strand();
  const backMs = await demand.msUntilAnswered(DARK.clients, capMs);
  demand.stop();
  return { "all serve again after, ms": backMs };
}

/** Callers that never stop calling, whatever happens. */
class Demand {
  readonly #answeredBy = new Set<string>();
  #onAnswer: (() => void) | undefined;
  #isOver = false;

  constructor(calls: readonly Call[]) {
    for (const call of calls) void this.#call(call);
  }

  /** The time until so many different clients have answered; Infinity after `capMs`. */
  async msUntilAnswered(by: number, capMs: number): Promise<number> {
    const startedAt = performance.now();
    this.#answeredBy.clear();
    let timer: NodeJS.Timeout | undefined;
    const isComplete = await new Promise<boolean>((resolve) => {
      this.#onAnswer = () => this.#answeredBy.size >= by && resolve(true);
      timer = setTimeout(() => resolve(false), capMs);
    });
    clearTimeout(timer);
    return isComplete ? performance.now() - startedAt : Infinity;
  }

  /** No more calls start. A call that never settles ends with its client. */
  stop(): void {
    this.#isOver = true;
  }

  async #call(call: Call): Promise<void> {
    while (!this.#isOver) {
      try {
        this.#answeredBy.add(await call());
        this.#onAnswer?.();
      } catch {
        // An outage is what is measured here: the caller calls again, after a pause so that this is no busy loop.
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    }
  }
}
