/** One contender alone in a process: its threads read all keys, and then it prints its memory. */
import { eventually } from "../../test/support/gate.js";
import { openManager } from "../contenders/redthread/redthread.js";
import type * as Tasks from "./tasks.js";

export interface NearMemoryInput {
  readonly port: number;
  readonly threads: number;
  readonly keys: number;
  readonly maxBytes: number;
  readonly way: "GET" | "near" | "Map";
  /** So many threads read all keys. */
  readonly fillers: number;
}

export interface NearMemoryFigures {
  readonly rss: number;
  readonly hitShare?: number | undefined;
}

const { port, threads, keys, maxBytes, way, fillers } = JSON.parse(process.argv[2]!) as NearMemoryInput;
const manager = openManager<typeof Tasks>(
  {
    redis: { port },
    threads: { count: threads, startTimeoutMs: 60_000 },
    // Nothing is written, and 8 threads on two cores may starve the keeper: what has to be asked again would hide what is lost.
    ...(way === "near" && { nearCache: { prefixes: ["near:"], maxBytes, maxStaleMs: 10_000, maxAgeMs: 3_600_000 } }),
  },
  "near-memory/tasks.js",
);
await manager.ready();
// What is read before the keeper has its connection is not kept.
await eventually(() => way !== "near" || manager.stats().near!.leaseMs > 0, 60_000, "values are kept");

function inThreads<T>(count: number, task: (seed: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, seed) => task(seed)));
}

await inThreads(fillers, (seed) => manager.run("readAll", { way, keys, seed }, { exclusive: true }));
const shares =
  way === "near"
    ? await inThreads(threads, (seed) => manager.run("hitShare", { keys, seed }, { exclusive: true }))
    : undefined;
for (let i = 0; i < 3; i++) {
  globalThis.gc?.();
  await inThreads(threads, () => manager.run("collect", undefined, { exclusive: true }));
}
const figures: NearMemoryFigures = {
  rss: process.memoryUsage().rss,
  hitShare: shares && shares.reduce((sum, share) => sum + share, 0) / threads,
};
process.stdout.write(JSON.stringify(figures));
await manager.shutdown();
