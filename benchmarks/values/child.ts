/** One build alone in a process: measures how many values cross per second, and the memory of results that are kept. */
import assert from "node:assert/strict";
import { byCallers } from "../contenders/contender.js";
import { openManager } from "../contenders/redthread/redthread.js";
import { closedLoop, type Rate } from "../support/loops.js";
import { inputOfParent, serveParent } from "../support/own-process.js";
import { flat, FROZEN, longBuffer, nested, shortBuffer } from "./shapes.js";
import type * as Tasks from "./tasks.js";

export interface ValuesInput {
  readonly port: number;
  /** So many keys, from `bench:0` on, have values of 4 kB. */
  readonly keys: number;
}

export interface ValuesLoad {
  readonly shape: ShapeName;
  readonly callers: number;
  readonly leadMs: number;
  readonly ms: number;
}

/** The caller keeps all results, 12-byte Buffers. */
export interface KeptLoad {
  readonly results: number;
  readonly callers: number;
}

export interface Kept extends Record<string, number> {
  /** Scaled up to all results if the process stopped early. */
  readonly rssMiB: number;
  /** The part of it that the main thread's ArrayBuffers have. */
  readonly buffersMiB: number;
}

export type ShapeName = keyof typeof SHAPES;

interface Shape {
  readonly call: (n: number) => Promise<unknown>;
  readonly expected: (n: number) => unknown;
}

const MIB = 2 ** 20;
/** In Node 24 each result keeps a slab of 64 kB: all of them would need more memory than many machines have. */
const MOST_MIB = 1_500;
const { port, keys } = inputOfParent() as ValuesInput;
const manager = openManager<typeof Tasks>({ redis: { port }, threads: { count: 2 } }, "values/tasks.js");

const SHAPES = {
  string: { call: (n) => manager.run("string", keyOf(n)), expected: keyOf },
  number: { call: (n) => manager.run("number", n % keys), expected: (n) => n % keys },
  flat: { call: (n) => manager.run("flat", flat(keyOf(n))), expected: (n) => flat(keyOf(n)) },
  nested: { call: (n) => manager.run("nested", nested(keyOf(n))), expected: (n) => nested(keyOf(n)) },
  frozen: { call: (n) => manager.run("frozen", keyOf(n)), expected: () => FROZEN },
  "12-byte Buffer": { call: (n) => manager.run("short", n), expected: shortBuffer },
  "12-byte Buffer, waits once": { call: (n) => manager.run("shortLater", n), expected: shortBuffer },
  "4 kB Buffer": { call: () => manager.run("long"), expected: longBuffer },
} as const satisfies Readonly<Record<string, Shape>>;

let tasks = 0;
const checked = new Set<ShapeName>();

function keyOf(n: number): string {
  return `bench:${n % keys}`;
}

async function rate({ shape, callers, leadMs, ms }: ValuesLoad): Promise<Rate> {
  const { call, expected } = SHAPES[shape];
  if (!checked.has(shape)) assert.deepEqual(comparable(await call(7)), comparable(expected(7)));
  checked.add(shape);
  return closedLoop({ callers, leadMs, ms, next: () => tasks++ % 100_000, drive: byCallers(call) });
}

async function keep({ results, callers }: KeptLoad): Promise<Kept> {
  const { call } = SHAPES["12-byte Buffer"];
  for (let n = 0; n < 100; n++) await call(n);
  const before = collected();
  const kept: unknown[] = [];
  function* untilFull(): Generator<number> {
    const mostRss = before.rss + MOST_MIB * MIB;
    for (let n = 0; n < results; n++) {
      if (n % 1_000 === 999 && process.memoryUsage.rss() > mostRss) return;
      yield n;
    }
  }
  await byCallers(async (n: number) => kept.push(await call(n)))(untilFull(), callers);
  const after = collected();
  const scale = results / kept.length; // uses the results, so that the collection above cannot take them
  return {
    rssMiB: (scale * (after.rss - before.rss)) / MIB,
    buffersMiB: (scale * (after.arrayBuffers - before.arrayBuffers)) / MIB,
  };
}

function collected(): NodeJS.MemoryUsage {
  globalThis.gc!();
  globalThis.gc!();
  return process.memoryUsage();
}

/** A Buffer may arrive as a plain Uint8Array. */
function comparable(value: unknown): unknown {
  return value instanceof Uint8Array ? Buffer.from(value).toString() : value;
}

serveParent(
  async (question) => {
    const load = question as ValuesLoad | KeptLoad;
    return "shape" in load ? rate(load) : keep(load);
  },
  () => manager.shutdown(),
);
