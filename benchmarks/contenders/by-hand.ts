import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { Piscina } from "piscina";
import type { Item } from "../work.js";
import { byCallers, type Contender } from "./contender.js";
import type { Place } from "./place.js";

export interface ByHandOptions extends Place {
  readonly threads: number;
}

/** What tuning piscina for tasks that wait for Redis comes to: many at once in a thread, whose loop is never parked. */
const TUNED = { concurrentTasksPerWorker: 16, atomics: "disabled" } as const;

const BATCH = 16;
/** Of a thread: the best of 1, 2 and 4 at 64 callers. */
const BATCHES_AT_ONCE = 4;

/** As the documentation of both has it, nothing set. */
export function piscinaDefaults(options: ByHandOptions): Contender {
  return ofPool(pool("piscina-global", options));
}

export function piscinaTuned(options: ByHandOptions): Contender {
  return ofPool(pool("piscina-global", options, TUNED));
}

export function nodeRedis(options: ByHandOptions): Contender {
  return ofPool(pool("node-redis", options, TUNED));
}

export function glide(options: ByHandOptions): Contender {
  return ofPool(pool("glide", options, TUNED));
}

export function connectionPerTask(options: ByHandOptions): Contender {
  return ofPool(pool("connection-per-task", options, TUNED));
}

/** Redis on the main thread, the CPU's part in threads: every value crosses twice. */
export function proxy(options: ByHandOptions): Contender {
  // One client for all callers: by 64 it does twice as much with this; a lone caller pays a little for it.
  const redis = new Redis(options.port, { enableAutoPipelining: true });
  const threads = pool("cpu-only", options, TUNED);
  return {
    drive: byCallers(async ({ key, rounds }) => {
      const value = await redis.getBuffer(key);
      const hashed = (await threads.run({ value, rounds })) as Uint8Array;
      await redis.set(`${key}:out`, Buffer.from(hashed.buffer, hashed.byteOffset, hashed.length));
    }),
    close: () => Promise.all([redis.quit(), threads.destroy()]),
  };
}

interface Waiting {
  readonly item: Item;
  readonly resolve: (length: number) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * The floor: fixed batches through piscina, a corked socket, and nothing of what redthread adds: no deadlines, no
 * typed errors, no cancelling, no shutdown, and a task that fails takes its batch with it.
 */
export function bare(options: ByHandOptions): Contender {
  return ofBatches("bare-batch", options);
}

/** What no library can exceed: the same batches, and of each task only what it computes; no Redis. */
export function cpuAlone(options: ByHandOptions): Contender {
  return ofBatches("cpu-batch", options);
}

function ofBatches(file: string, options: ByHandOptions): Contender {
  const threads = pool(file, options, { ...TUNED, concurrentTasksPerWorker: BATCHES_AT_ONCE });
  let waiting: Waiting[] = [];
  const send = async (batch: readonly Waiting[]): Promise<void> => {
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
      if (waiting.length === 0) queueMicrotask(flush); // after all callers that this turn has woken
      waiting.push({ item, resolve, reject });
    });
  return { drive: byCallers(run), close: () => threads.destroy() };
}

type PoolOptions = ConstructorParameters<typeof Piscina>[0];

function pool(file: string, { port, threads }: ByHandOptions, options: PoolOptions = {}): Piscina {
  return new Piscina({
    filename: fileURLToPath(new URL(`./${file}.js`, import.meta.url)),
    // Fewer at rest than at most would start threads, and so clients, over and over.
    minThreads: threads,
    maxThreads: threads,
    workerData: { port } satisfies Place,
    ...options,
  });
}

function ofPool(threads: Piscina): Contender {
  return { drive: byCallers((item) => threads.run(item)), close: () => threads.destroy() };
}
