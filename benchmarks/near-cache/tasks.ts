import { makeWays, type WayName } from "./ways.js";

export interface Reading {
  readonly way: WayName;
  /** So many keys, from `near:0` on, are read in turn. */
  readonly keys: number;
  readonly callers: number;
  /** The time before the measurement, in which the callers settle. */
  readonly leadMs: number;
  readonly ms: number;
}

export interface Reads {
  readonly reads: number;
  readonly ms: number;
}

/** So many reads are done between two looks at the clock, because a look costs as much as a hit. */
const PER_LOOK = 16;
/** So many synchronous reads, because they are faster. */
const PER_LOOP = 1_000;

const ways = makeWays();

/** Where this thread keeps what it reads is filled, and connected. */
export async function warm({ way, keys }: Pick<Reading, "way" | "keys">): Promise<void> {
  const { read } = (await ways)[way];
  for (let i = 0; i < keys; i++) await read(`near:${i}`);
}

/** Callers that each wait for their read before they begin the next. */
export async function rate({ way, keys, callers, leadMs, ms }: Reading): Promise<Reads> {
  const { read } = (await ways)[way];
  const names = namesOf(keys);
  const startedAt = performance.now();
  let reads = 0;
  let [from, to]: ({ at: number; reads: number } | undefined)[] = [];
  const caller = async (first: number): Promise<void> => {
    for (let next = first; !to;) {
      for (let i = 0; i < PER_LOOK; i++) {
        await read(names[next]!);
        next = next + 1 === keys ? 0 : next + 1;
      }
      reads += PER_LOOK;
      const at = performance.now();
      if (!from && at >= startedAt + leadMs) from = { at, reads };
      if (from && at >= from.at + ms) to = { at, reads };
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, i) => caller(Math.floor((i * keys) / callers))));
  return { reads: to!.reads - from!.reads, ms: to!.at - from!.at };
}

/** Microseconds of each read of one caller. */
export async function latencies({ way, keys, leadMs, ms }: Reading): Promise<number[]> {
  const { read } = (await ways)[way];
  const names = namesOf(keys);
  const samples: number[] = [];
  const startedAt = performance.now();
  let now = startedAt;
  for (let next = 0; now < startedAt + leadMs + ms; next = next + 1 === keys ? 0 : next + 1) {
    const from = performance.now();
    await read(names[next]!);
    now = performance.now();
    if (now >= startedAt + leadMs) samples.push((now - from) * 1_000);
  }
  return samples;
}

/** Nanoseconds of each synchronous read. */
export async function peeks({ way, keys, ms }: Reading): Promise<number> {
  const peek = (await ways)[way].peek!;
  const names = namesOf(keys);
  const startedAt = performance.now();
  let reads = 0;
  let found = 0;
  let now = startedAt;
  for (let next = 0; now < startedAt + ms; now = performance.now()) {
    for (let i = 0; i < PER_LOOP; i++) {
      if (typeof peek(names[next]!) === "string") found++;
      next = next + 1 === keys ? 0 : next + 1;
    }
    reads += PER_LOOP;
  }
  // What is not found cannot be read in this way: for a moment nothing may be served.
  return ((now - startedAt) * 1e6) / Math.min(reads, found);
}

function namesOf(keys: number): string[] {
  return Array.from({ length: keys }, (_, i) => `near:${i}`);
}
