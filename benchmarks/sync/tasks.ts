import { memoryUsage } from "node:process";
import { getRedisSync } from "redthread/sync";
import { getRedis } from "redthread/worker";

export interface Measuring {
  readonly how: "sync" | "async";
  readonly call: "GET" | "pipeline of 100";
  readonly calls: number;
}

const KEYS = Array.from({ length: 100 }, (_, i) => `bench:${i}`);

/** Microseconds of each call. */
export async function measure({ how, call, calls }: Measuring): Promise<number[]> {
  const work = how === "sync" ? blocking(call) : await awaited(call);
  const samples: number[] = [];
  for (let i = 0; i < calls; i++) {
    const startedAt = performance.now();
    const outcome = work();
    if (outcome instanceof Promise) await outcome; // a synchronous call must not pay for an await
    samples.push((performance.now() - startedAt) * 1_000);
  }
  return samples;
}

/** How long this thread's first synchronous call takes, and how much memory its helper adds to the process. */
export async function start(): Promise<{ ms: number; mb: number }> {
  await getRedis();
  const before = memoryUsage.rss();
  const startedAt = performance.now();
  getRedisSync().get("bench:1");
  return { ms: performance.now() - startedAt, mb: (memoryUsage.rss() - before) / 2 ** 20 };
}

function blocking(call: Measuring["call"]): () => unknown {
  const redis = getRedisSync();
  return call === "GET" ? () => redis.get("bench:1") : () => redis.pipeline(KEYS.map((key) => ["get", key]));
}

async function awaited(call: Measuring["call"]): Promise<() => unknown> {
  const redis = await getRedis();
  if (call === "GET") return () => redis.get("bench:1");
  return () => {
    const pipeline = redis.pipeline();
    for (const key of KEYS) pipeline.get(key);
    return pipeline.exec();
  };
}
