import type { TestContext } from "node:test";
import { openClient } from "../../src/clients/open-client.js";
import { noopLogger, type Logger } from "../../src/core/log.js";
import { Client } from "../../src/connection/client.js";
import { ownGate } from "../../src/gate/connect-gate.js";
import { Tracking } from "../../src/keeper/tracking.js";
import { NEAR_FIELDS, type NearField } from "../../src/link/ledger.js";
import { makeNearBuffers } from "../../src/near/near-buffers.js";
import type { NearCache } from "../../src/near/near-cache.js";
import { NearMemory } from "../../src/near/near-memory.js";
import { openNear } from "../../src/near/open-near.js";
import { configFor } from "./fast-config.js";
import { beginLeakCheck, leakCheck } from "./leak-check.js";
import type { RedisServer } from "./redis-server.js";
import { eventually } from "./gate.js";

type Config = ReturnType<typeof configFor>;
type Given = NonNullable<Parameters<typeof configFor>[1]>;

interface NearSetup extends Pick<Given, "redis" | "nearCache"> {
  /** How many near caches there are, each with a client of its own, as in so many threads. Default 2. */
  readonly caches?: number;
  /** The port of the tracking connection, if it is another one. */
  readonly trackedPort?: number;
  /** Called with the tracking connection before anything is asked of it. */
  readonly onTracker?: (tracker: Client) => void;
  readonly logger?: Logger;
  readonly wallClock?: () => number;
}

export interface NearWorld {
  readonly config: Config;
  readonly memory: NearMemory;
  readonly caches: readonly NearCache[];
  /** The clients of the caches. */
  readonly clients: readonly Client[];
  /** Of the keeper that there would be. */
  readonly tracker: Client;
  readonly tracking: Tracking;
  readonly counts: Record<NearField, number>;
  /** Resolves when values are served. */
  readonly served: () => Promise<void>;
}

/** All of a near cache in one thread: several caches with one memory, and the tracking of a keeper. It is closed after the test. */
export async function openNearWorld(t: TestContext, server: RedisServer, setup: NearSetup = {}): Promise<NearWorld> {
  const {
    redis = {},
    nearCache = {},
    caches = 2,
    trackedPort = server.port,
    logger = noopLogger,
    wallClock,
    onTracker,
  } = setup;
  beginLeakCheck(t);
  const config = configFor(server, {
    redis,
    retry: { baseDelayMs: 5, maxDelayMs: 20 },
    nearCache: { prefixes: ["near:"], ...nearCache },
  });
  const buffers = makeNearBuffers(config.nearCache);
  const memory = new NearMemory(buffers);
  const counts = Object.fromEntries(NEAR_FIELDS.map((field) => [field, 0])) as Record<NearField, number>;
  const open = async (name: string, more: Partial<Parameters<typeof openClient>[0]>): Promise<Client> => {
    const role = "thread";
    const options = { redis: config.redis, retry: config.retry, role, logger, name, gate: ownGate(config), ...more };
    const client = await openClient({ ...options, role }, 1_000);
    t.after(() => client.close(1_000));
    return client as Client;
  };
  const [made, clients]: [NearCache[], Client[]] = [[], []];
  for (let i = 0; i < caches; i++) {
    const getRedis = async (): Promise<Client["redis"]> => clients[i]!.redis;
    const counter = (field: NearField) => () => void counts[field]++;
    const cache = openNear({ config, buffers, threadId: i, getRedis, counter });
    t.after(() => cache.close());
    made.push(cache);
    clients.push(await open(`near:${i}`, { onIdentified: (name) => cache.identified(name) }));
  }
  let tracking: Tracking | undefined;
  const tracker = await open("near:tracker", {
    redis: { ...config.redis, keyPrefix: "", port: trackedPort },
    onState: (state, previous) => {
      if (previous === "connected") tracking?.lost();
      if (state === "connected") tracking?.connected();
    },
  });
  onTracker?.(tracker);
  tracking = new Tracking({
    client: tracker,
    memory,
    generation: memory.nextGeneration(),
    prefixes: config.nearCache.prefixes!.map((prefix) => config.redis.keyPrefix + prefix),
    maxStaleMs: config.nearCache.maxStaleMs,
    logger,
    ...(wallClock && { wallClock }),
  });
  t.after(() => tracking.close());
  tracking.connected();
  leakCheck(t, server);
  const served = async (): Promise<void> => {
    await eventually(() => memory.leaseUntil !== 0, 20_000, "values are served");
  };
  return { config, memory, caches: made, clients, tracker, tracking, counts, served };
}
