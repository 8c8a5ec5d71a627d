import { Redis } from "ioredis";
import type { Build } from "../support/build.js";
import { pool } from "./by-hand/by-hand.js";
import type { ContenderOptions } from "./contender.js";
import { openManager } from "./redthread/redthread.js";
import type * as Tasks from "./redthread/tasks.js";

/** Threads with connected clients. */
export interface Running {
  readonly stop: () => Promise<unknown>;
}

export interface Lifecycle {
  readonly name: string;
  readonly twinOf?: string;
  /** Resolves when the main thread has a client and every thread has returned a result that needed one. */
  readonly start: (options: ContenderOptions) => Promise<Running>;
}

export const REDTHREAD: Lifecycle = {
  name: "redthread",
  async start({ port, threads }) {
    // 32 threads on two busy cores take long to start.
    const manager = openManager<typeof Tasks>({ redis: { port }, threads: { count: threads, startTimeoutMs: 60_000 } });
    await manager.ready();
    await everyThread(threads, () => manager.run("whoAmI"));
    return { stop: () => manager.shutdown() };
  },
};

export const BY_HAND: Lifecycle = {
  name: "piscina + global ioredis",
  async start(options) {
    const redis = new Redis(options.port, { lazyConnect: true });
    const threads = pool("by-hand/tasks.js", options);
    await redis.connect();
    const everyThreadDoes = (name: string): Promise<void> =>
      everyThread(options.threads, () => threads.run(undefined, { name }) as Promise<number>);
    await everyThreadDoes("whoAmI");
    const stop = async (): Promise<void> => {
      await Promise.all([redis.quit(), everyThreadDoes("quit")]);
      await threads.destroy();
    };
    return { stop };
  },
};

/** redthread of each build, and by hand. */
export async function lifecycles(builds: readonly Build[]): Promise<Lifecycle[]> {
  const ours = builds.map(async (build): Promise<Lifecycle> => {
    const own = await build.load<{ REDTHREAD: Lifecycle }>("contenders/lifecycle.js");
    return { ...own.REDTHREAD, ...build.named(REDTHREAD.name) };
  });
  return [...(await Promise.all(ours)), BY_HAND];
}

/** Runs tasks until each thread has returned its id. */
async function everyThread(threads: number, task: () => Promise<number>): Promise<void> {
  const ids = new Set<number>();
  while (ids.size < threads) {
    for (const threadId of await Promise.all(Array.from({ length: threads }, task))) ids.add(threadId);
  }
}
