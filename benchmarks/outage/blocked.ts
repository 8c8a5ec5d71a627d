import { fileURLToPath } from "node:url";
import { Piscina } from "piscina";
import { ConnectionManager } from "redthread";
import { silent } from "../../test/support/silent.js";
import { startRedis } from "../../test/support/redis-server.js";
import type { BlockedInput } from "../contenders/blocked-global.js";
import type * as Tasks from "../contenders/outage-tasks.js";
import type { Sample } from "../support/interleave.js";
import { REDTHREAD, type Rival, TASKS } from "./rival.js";

export interface BlockedCase {
  readonly replies: number;
  readonly bytes: number;
  readonly blockMs: number;
}

const COMMAND_TIMEOUT_MS = 1_000;
const KEY = "blocked";

/** A thread is busy while the replies to what it wrote lie in its socket: which of them does it give up? */
export function blockedRivals({ bytes, ...rest }: BlockedCase): Rival[] {
  const input = { ...rest, key: KEY };
  return [
    { name: REDTHREAD, measure: () => withValue(bytes, (port) => redthread(port, input)) },
    { name: "ioredis, commandTimeout", measure: () => withValue(bytes, (port) => byHand(port, input)) },
  ];
}

async function withValue(bytes: number, rejected: (port: number) => Promise<number>): Promise<Sample> {
  await using server = await startRedis();
  await server.admin.set(KEY, Buffer.alloc(bytes, 7));
  return { rejected: await rejected(server.port) };
}

async function redthread(port: number, input: BlockedInput): Promise<number> {
  await using manager = new ConnectionManager<typeof Tasks>({
    tasks: TASKS,
    env: {},
    logger: silent,
    redis: { port, commandTimeoutMs: COMMAND_TIMEOUT_MS },
    threads: { count: 1 },
  });
  return await manager.run("rejectedByBlock", input);
}

async function byHand(port: number, input: BlockedInput): Promise<number> {
  const threads = new Piscina({
    filename: fileURLToPath(new URL("../contenders/blocked-global.js", import.meta.url)),
    maxThreads: 1,
    atomics: "disabled",
    workerData: { port, commandTimeoutMs: COMMAND_TIMEOUT_MS },
  });
  try {
    return (await threads.run(input)) as number;
  } finally {
    await threads.destroy();
  }
}
