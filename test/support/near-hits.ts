import { availableParallelism } from "node:os";
import { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/near-busy-tasks.js";
import { eventually } from "./gate.js";
import { fixture } from "./manage.js";
import { startRedis } from "./redis-server.js";
import { seeded } from "./seeded.js";
import { silent } from "./silent.js";

type HotReads = Awaited<ReturnType<typeof Tasks.read>>;

const HOT = 200;
const WRITE_EVERY_MS = 10;
const VALUE = "x".repeat(4_000);

/** How many reads of hot keys memory answers while a thread computes on each core without a pause, and as many others read. */
export async function hitRateWhileBusy(maxStaleMs: number, seconds: number): Promise<HotReads> {
  const cores = availableParallelism();
  const keys = Array.from({ length: HOT }, (_, i) => `near:${i}`);
  await using server = await startRedis();
  await server.admin.mset(...keys.flatMap((key) => [key, VALUE]));
  await using manager = new ConnectionManager<typeof Tasks>({
    env: {},
    logger: silent,
    tasks: fixture("near-busy-tasks"),
    redis: { port: server.port },
    threads: { count: 2 * cores },
    nearCache: { prefixes: ["near:"], maxStaleMs },
  });
  await manager.ready();
  await eventually(async () => (await manager.near.get(keys[0]!), manager.near.peek(keys[0]!) !== undefined), 20_000);
  const ms = 1_000 * seconds;
  const inAll = <T>(task: () => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: cores }, task));
  const computing = inAll(() => manager.run("compute", ms, { exclusive: true }));
  const reading = inAll(() => manager.run("read", { keys, ms }, { exclusive: true }));
  const random = seeded(29);
  const write = (): void => void server.admin.set(keys[Math.floor(HOT * random())]!, VALUE).catch(() => {});
  const writing = setInterval(write, WRITE_EVERY_MS);
  const [counts] = await Promise.all([reading, computing]).finally(() => clearInterval(writing));
  return counts.reduce((sum, { reads, hits }) => ({ reads: sum.reads + reads, hits: sum.hits + hits }));
}
