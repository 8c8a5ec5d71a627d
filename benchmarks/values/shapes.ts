/** Typical inputs and results of tasks; each call makes a new one. */

export interface Flat {
  readonly key: string;
  readonly rounds: number;
  readonly weight: number;
  readonly isLast: boolean;
}

export interface Nested {
  readonly key: string;
  readonly tags: readonly string[];
  readonly owner: {
    readonly name: string;
    readonly address: { readonly city: string; readonly zip: number };
    readonly roles: readonly string[];
  };
  readonly lines: readonly { readonly article: string; readonly count: number }[];
  readonly total: { readonly net: number; readonly gross: number };
}

export function flat(key: string): Flat {
  return { key, rounds: 3, weight: 0.5, isLast: false };
}

/** Ten objects and arrays. */
export function nested(key: string): Nested {
  return {
    key,
    tags: ["red", "thread"],
    owner: { name: "Ariadne", address: { city: "Knossos", zip: 71409 }, roles: ["reader", "writer"] },
    lines: [
      { article: "thread", count: 1 },
      { article: "ball", count: 2 },
      { article: "sword", count: 3 },
    ],
    total: { net: 120.5, gross: 143.4 },
  };
}

/** One value for all tasks: five frozen objects and arrays. */
export const FROZEN = Object.freeze({
  status: "served",
  limits: Object.freeze({ perSecond: 100, burst: 20 }),
  hosts: Object.freeze(["a.example", "b.example"]),
  owner: Object.freeze({ name: "Ariadne", address: Object.freeze({ city: "Knossos", zip: 71409 }) }),
});

/** 12 bytes, if `n` has at most five digits. Node cuts it from a slab that several Buffers share. */
export function shortBuffer(n: number): Buffer {
  return Buffer.from(`result ${n}`.padEnd(12));
}

const LONG = "x".repeat(4_000);

/** Node cuts two such Buffers from a slab. */
export function longBuffer(): Buffer {
  return Buffer.from(LONG);
}
