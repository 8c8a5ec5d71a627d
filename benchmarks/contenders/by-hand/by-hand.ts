import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { Piscina } from "piscina";
import { byCallers, type Contender, type ContenderOptions, type Place } from "../contender.js";
import type { Item } from "../work.js";

type PoolOptions = NonNullable<ConstructorParameters<typeof Piscina>[0]>;

/** Piscina, tuned for tasks that wait for Redis: many at once in a thread, whose loop never parks. */
export const TUNED = { concurrentTasksPerWorker: 16, atomics: "disabled" } as const;

const BATCH = 16;
/** Per thread: the best of 1, 2 and 4 with 64 callers. */
const BATCHES_AT_ONCE = 4;

/** Threads that load `file`, a path in the folder of the contenders. */
export function pool(file: string, { threads, ...place }: ContenderOptions, options: PoolOptions = {}): Piscina {
  return new Piscina({
    filename: fileURLToPath(new URL(`../${file}`, import.meta.url)),
    // With fewer threads at rest piscina starts threads, and so clients, over and over.
    minThreads: threads,
    maxThreads: threads,
    workerData: place satisfies Place,
    ...options,
  });
}

/** A contender whose threads run one task per call. */
export function perCall(file: string, tuning: PoolOptions = TUNED): (options: ContenderOptions) => Contender {
  return (options) => {
    const threads = pool(file, options, tuning);
    return { drive: byCallers((item) => threads.run(item)), close: () => threads.destroy() };
  };
}

/** Redis on the main thread, the CPU's part in threads: every value crosses twice. */
export function proxy(options: ContenderOptions): Contender {
  // One client for all callers: auto-pipelining doubles what 64 of them do, and costs a lone caller a little.
  const redis = new Redis(options.port, { enableAutoPipelining: true });
  const threads = pool("by-hand/cpu.js", options, { ...TUNED, name: "hash" });
  return {
    drive: byCallers(async ({ key, rounds }) => {
      const value = await redis.getBuffer(key);
      const hashed = (await threads.run({ value, rounds })) as Uint8Array;
      await redis.set(`out:${key}`, Buffer.from(hashed.buffer, hashed.byteOffset, hashed.length));
    }),
    close: () => Promise.all([redis.quit(), threads.destroy()]),
  };
}

/**
 * Fixed batches through piscina. With `batch.js`, which corks its socket, this is the floor: no deadlines, no typed
 * errors, no cancelling, no shutdown, and a task that fails takes its batch with it.
 */
export function inBatches(file: string, name = "default"): (options: ContenderOptions) => Contender {
  return (options) => {
    const threads = pool(file, options, { ...TUNED, name, concurrentTasksPerWorker: BATCHES_AT_ONCE });
    let waiting: { item: Item; resolve: (length: number) => void; reject: (error: unknown) => void }[] = [];
    const send = async (batch: typeof waiting): Promise<void> => {
      try {
        const lengths = (await threads.run(batch.map(({ item }) => item))) as number[];
        for (const [at, { resolve }] of batch.entries()) resolve(lengths[at]!);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    };
    const flush = (): void => {
      const all = waiting;
      waiting = [];
      for (let from = 0; from < all.length; from += BATCH) void send(all.slice(from, from + BATCH));
    };
    const run = (item: Item): Promise<number> =>
      new Promise((resolve, reject) => {
        if (waiting.length === 0) queueMicrotask(flush); // after all callers that this turn woke
        waiting.push({ item, resolve, reject });
      });
    return { drive: byCallers(run), close: () => threads.destroy() };
  };
}
