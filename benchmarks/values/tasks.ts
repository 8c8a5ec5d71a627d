import { getRedis } from "redthread/worker";
import { work } from "../contenders/work.js";
import {
  type Flat,
  flat as newFlat,
  FROZEN,
  longBuffer,
  type Nested,
  nested as newNested,
  shortBuffer,
} from "./shapes.js";

// Each returns a new value that equals its input.

export async function string(key: string): Promise<string> {
  await getAndSet(key);
  return `bench:${Number(key.slice("bench:".length))}`;
}

export async function number(n: number): Promise<number> {
  await getAndSet(`bench:${n}`);
  return n;
}

export async function flat({ key }: Flat): Promise<Flat> {
  await getAndSet(key);
  return newFlat(key);
}

export async function nested({ key }: Nested): Promise<Nested> {
  await getAndSet(key);
  return newNested(key);
}

export async function frozen(key: string): Promise<typeof FROZEN> {
  await getAndSet(key);
  return FROZEN;
}

export function short(n: number): Buffer {
  return shortBuffer(n);
}

export async function shortLater(n: number): Promise<Buffer> {
  await new Promise(setImmediate);
  return shortBuffer(n);
}

export function long(): Buffer {
  return longBuffer();
}

async function getAndSet(key: string): Promise<void> {
  await work(await getRedis(), { key, rounds: 0 });
}
