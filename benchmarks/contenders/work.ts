import { hash } from "node:crypto";
import type { Redis } from "ioredis";

export interface Item {
  readonly key: string;
  /** How often the value is hashed: 1 000 rounds take about a millisecond. */
  readonly rounds: number;
}

/** The unit of work of every contender: GET 4 kB, `rounds` x sha256, SET. */
export async function work(redis: Redis, { key, rounds }: Item): Promise<number> {
  const value = (await redis.getBuffer(key)) ?? Buffer.alloc(0);
  await redis.set(`out:${key}`, digest(value, rounds));
  return value.length;
}

/** The part of the work that needs the CPU. */
export function digest(value: Uint8Array, rounds: number): Buffer {
  let hashed: Uint8Array = value;
  for (let i = 0; i < rounds; i++) hashed = hash("sha256", hashed, "buffer");
  return Buffer.from(hashed.buffer, hashed.byteOffset, Math.min(32, hashed.length));
}

export interface Request {
  readonly key: string;
  /** How long the request lasts between its two commands. */
  readonly ms: number;
}

/** A request that takes some time and needs Redis at its end. */
export async function serve(redis: Redis, { key, ms }: Request): Promise<void> {
  await redis.get(key);
  await new Promise((resolve) => setTimeout(resolve, ms));
  await redis.incr(key);
}

export interface Blocking {
  readonly key: string;
  readonly replies: number;
  readonly blockMs: number;
}
