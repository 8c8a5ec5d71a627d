import { hash } from "node:crypto";
import type { Redis } from "ioredis";

export interface Item {
  readonly key: string;
  /** How often the value is hashed: 1 000 are about a millisecond. */
  readonly rounds: number;
}

/** The unit of work of every contender: GET 4 kB, `rounds` x sha256, SET. */
export async function work(redis: Redis, { key, rounds }: Item): Promise<number> {
  const value = (await redis.getBuffer(key)) ?? Buffer.alloc(0);
  await redis.set(`${key}:out`, digest(value, rounds));
  return value.length;
}

/** The part that is heavy on CPU. */
export function digest(value: Uint8Array, rounds: number): Buffer {
  let hashed: Uint8Array = value;
  for (let i = 0; i < rounds; i++) hashed = hash("sha256", hashed, "buffer");
  return Buffer.from(hashed.buffer, hashed.byteOffset, Math.min(32, hashed.length));
}
