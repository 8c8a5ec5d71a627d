import { memoryUsage } from "node:process";
import { getRedisSync } from "../../src/sync.js";
import { getRedis } from "../../src/worker.js";

export interface Samples {
  readonly async: number[];
  readonly sync: number[];
}

export interface Measured {
  /** Microseconds per call. */
  readonly get: Samples;
  readonly pipeline: Samples;
}

const BLOCK = 20;
const PIPELINE = Array.from({ length: 100 }, (_, i) => `bench:${i}`);

/** Async and sync in turn, in short blocks: whatever else this machine does meanwhile meets both alike. */
export async function compare(blocks: number): Promise<Measured> {
  const redis = await getRedis();
  const blocking = getRedisSync();
  const measured: Measured = { get: { async: [], sync: [] }, pipeline: { async: [], sync: [] } };
  for (let block = 0; block < blocks; block++) {
    for (let i = 0; i < BLOCK; i++) await timed(measured.get.async, () => redis.get("bench:1"));
    for (let i = 0; i < BLOCK; i++) await timed(measured.get.sync, () => blocking.get("bench:1"));
    for (let i = 0; i < 2; i++) {
      await timed(measured.pipeline.async, () => {
        const pipeline = redis.pipeline();
        for (const key of PIPELINE) pipeline.get(key);
        return pipeline.exec();
      });
    }
    for (let i = 0; i < 2; i++) {
      await timed(measured.pipeline.sync, () => blocking.pipeline(PIPELINE.map((key) => ["get", key])));
    }
  }
  return measured;
}

/** Resident memory of the process before and after this thread's first synchronous client, and how long that took. */
export async function start(): Promise<{ ms: number; mb: number }> {
  await getRedis();
  const before = memoryUsage.rss();
  const startedAt = performance.now();
  getRedisSync().get("bench:1");
  return { ms: performance.now() - startedAt, mb: (memoryUsage.rss() - before) / 2 ** 20 };
}

async function timed(samples: number[], work: () => unknown): Promise<void> {
  const startedAt = performance.now();
  const outcome = work();
  if (outcome instanceof Promise) await outcome; // what a synchronous call must not pay for
  samples.push((performance.now() - startedAt) * 1_000);
}
