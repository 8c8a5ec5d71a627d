import { digest, type Item } from "../work.js";

const value = Buffer.alloc(4_096, "x");

/** The CPU's part of each task, without Redis. */
export function batch(items: readonly Item[]): number[] {
  return items.map(({ rounds }) => digest(value, rounds).length);
}

/** A thread behind a main thread that does all I/O with Redis. */
export function hash({ value: given, rounds }: { value: Uint8Array; rounds: number }): Uint8Array {
  return digest(given, rounds);
}
