import {
  bare,
  type ByHandOptions,
  connectionPerTask,
  cpuAlone,
  glide,
  nodeRedis,
  piscinaDefaults,
  piscinaTuned,
  proxy,
} from "./by-hand.js";
import { bullmq } from "./bullmq.js";
import type { Contender } from "./contender.js";
import { redthread, redthreadMap } from "./redthread.js";

/** All ways to have tasks done by threads, by name. */
export const ROSTER = {
  "redthread run()": redthread,
  "redthread map()": redthreadMap,
  "piscina + global ioredis": piscinaDefaults,
  "piscina tuned + global ioredis": piscinaTuned,
  "main thread as proxy": proxy,
  "bare batches of 16": bare,
  "no Redis, the CPU's part alone": cpuAlone,
  "piscina tuned + node-redis": nodeRedis,
  "connection per task": connectionPerTask,
  "piscina tuned + valkey-glide": glide,
  "BullMQ sandboxed threads": bullmq,
} as const satisfies Record<string, (options: ByHandOptions) => Contender | Promise<Contender>>;

export type ContenderName = keyof typeof ROSTER;
