import { startRedis } from "../../test/support/redis-server.js";
import { pool } from "../contenders/by-hand/by-hand.js";
import { openManager } from "../contenders/redthread/redthread.js";
import type * as Tasks from "../contenders/redthread/tasks.js";
import type { Blocking } from "../contenders/work.js";
import type { Rival, Sample } from "../support/interleave.js";

const COMMAND_TIMEOUT_MS = 1_000;
const KEY = "blocked";

/** A thread is busy while the replies to its commands lie in its socket: how many of them does it give up? */
export function blockedRivals({ bytes, ...rest }: Omit<Blocking, "key"> & { readonly bytes: number }): Rival[] {
  const input = { ...rest, key: KEY };
  return [
    { name: "redthread", measure: () => withValue(bytes, (port) => redthread(port, input)) },
    { name: "ioredis, commandTimeout", measure: () => withValue(bytes, (port) => byHand(port, input)) },
  ];
}

async function withValue(bytes: number, rejected: (port: number) => Promise<number>): Promise<Sample> {
  await using server = await startRedis();
  await server.admin.set(KEY, Buffer.alloc(bytes, 7));
  return { rejected: await rejected(server.port) };
}

async function redthread(port: number, input: Blocking): Promise<number> {
  const options = { redis: { port, commandTimeoutMs: COMMAND_TIMEOUT_MS }, threads: { count: 1 } };
  await using manager = openManager<typeof Tasks>(options);
  return await manager.run("rejectedByBlock", input);
}

async function byHand(port: number, input: Blocking): Promise<number> {
  const options = { port, threads: 1, redis: { commandTimeout: COMMAND_TIMEOUT_MS } };
  const threads = pool("by-hand/tasks.js", options, { atomics: "disabled", name: "rejectedByBlock" });
  try {
    return (await threads.run(input)) as number;
  } finally {
    await threads.destroy();
  }
}
