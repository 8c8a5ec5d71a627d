import { createPool } from "generic-pool";
import { Redis } from "ioredis";
import { createClientPool } from "redis";
import { Pool as TarnPool } from "tarn";
import { getRedis, withDedicated } from "redthread/worker";

/** The use of a leased client: no command, a GET, or a WATCH that the user leaves behind. */
export type LeaseUse = "nothing" | "GET" | "WATCH";

export interface AcquireInput {
  readonly contender: string;
  readonly port: number;
  readonly use: LeaseUse | "cached";
  readonly callers: number;
  readonly calls: number;
}

/** The commands that have the same names in both clients. */
interface Leased {
  get(key: string): Promise<unknown>;
  watch(key: string): Promise<unknown>;
}
type Lease = (use: (redis: Leased) => Promise<unknown>) => Promise<unknown>;

const CONNECTIONS = 4;
/** As redthread's redis.idleCheckMs. */
const CHECK_IDLE_MS = 500;
const KEY = "acquire";

const lastUsed = new WeakMap<Redis, number>();
const made = new Map<string, Promise<Lease>>();
let moduleGlobal: Promise<Redis> | undefined;

/** Nanoseconds per call, measured in this thread. */
export async function acquire(input: AcquireInput): Promise<number> {
  if (input.use === "cached") return cached(input);
  const opening = made.get(input.contender) ?? OPENERS[input.contender]!(input.port);
  made.set(input.contender, opening);
  return leased(await opening, USES[input.use], input);
}

async function cached({ contender, calls, port }: AcquireInput): Promise<number> {
  moduleGlobal ??= connected(port);
  const promise = moduleGlobal;
  await Promise.all([promise, getRedis()]);
  let last: unknown;
  const startedAt = process.hrtime.bigint();
  if (contender === "redthread") for (let i = 0; i < calls; i++) last = await getRedis();
  else for (let i = 0; i < calls; i++) last = await promise;
  const ns = Number(process.hrtime.bigint() - startedAt) / calls;
  if (!last) throw new Error("no client"); // also keeps the loop from being optimized away
  return ns;
}

async function leased(
  lease: Lease,
  use: (redis: Leased) => Promise<unknown>,
  { callers, calls }: AcquireInput,
): Promise<number> {
  let left = calls;
  const caller = async (): Promise<void> => {
    while (left-- > 0) await lease(use);
  };
  const startedAt = process.hrtime.bigint();
  await Promise.all(Array.from({ length: callers }, caller));
  return Number(process.hrtime.bigint() - startedAt) / calls;
}

const USES: Readonly<Record<LeaseUse, (redis: Leased) => Promise<unknown>>> = {
  nothing: async () => undefined,
  GET: (redis) => redis.get(KEY),
  WATCH: (redis) => redis.watch(KEY),
};

const OPENERS: Readonly<Record<string, (port: number) => Promise<Lease>>> = {
  redthread: async () => (use) => withDedicated(use),
  "generic-pool, same checks": async (port) => {
    const pool = createPool(
      {
        create: () => connected(port),
        destroy: async (redis) => void (await redis.quit()),
        validate: async (redis) => isUsable(redis),
      },
      { max: CONNECTIONS, testOnBorrow: true, fifo: false },
    );
    return (use) =>
      pool.use(async (redis) => {
        const result = await use(redis);
        cleaned(redis);
        return result;
      });
  },
  // tarn calls `validate` before the lease. It may return a promise, whatever its type says.
  "tarn, same checks": async (port) => {
    const pool = new TarnPool<Redis>({
      create: () => connected(port),
      destroy: (redis) => redis.quit(),
      validate: isUsable as (redis: Redis) => boolean,
      min: 0,
      max: CONNECTIONS,
    });
    return async (use) => {
      const redis = await pool.acquire().promise;
      try {
        return await use(redis);
      } finally {
        cleaned(redis);
        pool.release(redis);
      }
    };
  },
  "one ioredis client, no pool": async (port) => {
    const redis = await connected(port);
    return (use) => use(redis);
  },
  // This pool neither sends a PING on an idle client, nor clears the session of the last holder.
  "node-redis pool, no checks": async (port) => {
    const pool = createClientPool(
      { socket: { host: "127.0.0.1", port } },
      { minimum: CONNECTIONS, maximum: CONNECTIONS },
    );
    await pool.connect();
    return (use) => pool.execute(use);
  },
};

/** The checks of redthread before it lends a client: it is open, and has answered lately or answers now. */
function isUsable(redis: Redis): boolean | Promise<boolean> {
  if (redis.status !== "ready") return false;
  if (performance.now() - (lastUsed.get(redis) ?? 0) < CHECK_IDLE_MS) return true;
  return redis.ping().then(
    () => true,
    () => false,
  );
}

/** Nobody has to wait for the UNWATCH: the next holder's commands come after it on the same socket. */
function cleaned(redis: Redis): void {
  redis.unwatch().catch(() => undefined); // the next check finds a lost connection
  lastUsed.set(redis, performance.now());
}

async function connected(port: number): Promise<Redis> {
  const redis = new Redis(port, { lazyConnect: true });
  await redis.connect();
  lastUsed.set(redis, performance.now() - CHECK_IDLE_MS);
  return redis;
}
