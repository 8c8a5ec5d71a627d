import { bullmq } from "./bullmq/bullmq.js";
import { inBatches, perCall, proxy, TUNED } from "./by-hand/by-hand.js";
import type { Contender, ContenderOptions } from "./contender.js";
import { redthread, redthreadMap, redthreadNear } from "./redthread/redthread.js";

/** All ways to run tasks in threads, by name. */
export const ROSTER = {
  "redthread run()": redthread,
  "redthread map()": redthreadMap,
  // Not with an older build, which may have no near cache.
  "near cache in redthread run()": redthreadNear,
  // As the documentation of both has it, no option set.
  "piscina + global ioredis": perCall("by-hand/tasks.js", { name: "item" }),
  "piscina tuned + global ioredis": perCall("by-hand/tasks.js", { ...TUNED, name: "item" }),
  "main thread as proxy": proxy,
  "bare batches of 16": inBatches("by-hand/batch.js"),
  // No library can do more: the same batches, and of each task only what it computes.
  "no Redis, the CPU's part alone": inBatches("by-hand/cpu.js", "batch"),
  "piscina tuned + node-redis": perCall("node-redis/tasks.js"),
  "connection per task": perCall("by-hand/connection-per-task.js"),
  "piscina tuned + valkey-glide": perCall("glide/tasks.js"),
  "BullMQ sandboxed threads": bullmq,
} as const satisfies Record<string, (options: ContenderOptions) => Contender | Promise<Contender>>;

export type ContenderName = keyof typeof ROSTER;
