import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { Piscina } from "piscina";
import { ConnectionManager } from "redthread";
import { silent } from "../../test/support/silent.js";
import type { Build } from "../support/build.js";
import type { ByHandOptions } from "./by-hand.js";
import type * as Tasks from "./whoami-tasks.js";

/** Threads with their clients, up and connected, and the way to take them down. */
export interface Running {
  readonly stop: () => Promise<unknown>;
}

export interface Lifecycle {
  readonly name: string;
  readonly twinOf?: string;
  /** Resolves once the main thread has a client and every thread has given a result that took one. */
  readonly start: (options: ByHandOptions) => Promise<Running>;
}

export const REDTHREAD: Lifecycle = {
  name: "redthread",
  async start({ port, threads }) {
    const manager = new ConnectionManager<typeof Tasks>({
      tasks: new URL("./whoami-tasks.js", import.meta.url),
      env: {},
      logger: silent,
      redis: { port },
      threads: { count: threads, startTimeoutMs: 60_000 }, // 32 on two busy cores take long
    });
    await manager.ready();
    await heardFromAll(threads, () => manager.run("whoAmI"));
    return { stop: () => manager.shutdown() };
  },
};

export async function redthreadOf(build: Build): Promise<Lifecycle> {
  const own = await build.load<{ REDTHREAD: Lifecycle }>("contenders/lifecycle.js");
  return { ...own.REDTHREAD, ...build.named(REDTHREAD.name) };
}

export const BY_HAND: Lifecycle = {
  name: "piscina + global ioredis",
  async start({ port, threads }) {
    const redis = new Redis(port, { lazyConnect: true });
    const pool = new Piscina({
      filename: fileURLToPath(new URL("./whoami-global.js", import.meta.url)),
      minThreads: threads,
      maxThreads: threads,
      workerData: { port },
    });
    await redis.connect();
    await heardFromAll(threads, () => pool.run(undefined) as Promise<number>);
    const stop = async (): Promise<void> => {
      await Promise.all([redis.quit(), heardFromAll(threads, () => pool.run(undefined, { name: "quit" }))]);
      await pool.destroy();
    };
    return { stop };
  },
};

async function heardFromAll(threads: number, whoAmI: () => Promise<number>): Promise<void> {
  const heard = new Set<number>();
  while (heard.size < threads) {
    for (const threadId of await Promise.all(Array.from({ length: threads }, whoAmI))) heard.add(threadId);
  }
}
