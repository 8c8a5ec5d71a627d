/** Values as tasks of all kinds get and give them, made anew by each call. */

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

/** One for all: five objects and arrays, none of which can change. */
export const FROZEN = Object.freeze({
  status: "served",
  limits: Object.freeze({ perSecond: 100, burst: 20 }),
  hosts: Object.freeze(["a.example", "b.example"]),
  owner: Object.freeze({ name: "Ariadne", address: Object.freeze({ city: "Knossos", zip: 71409 }) }),
});

/** At most five digits make it 12 bytes, which Node cuts from a slab that it shares with others. */
export function shortBuffer(n: number): Buffer {
  return Buffer.from(`result ${n}`.padEnd(12));
}

const LONG = "x".repeat(4_000);

/** Node cuts two of them from a slab. */
export function longBuffer(): Buffer {
  return Buffer.from(LONG);
}
