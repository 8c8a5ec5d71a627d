/** One build alone in a process: how many values cross in a second, and what results take that their caller keeps. */
import assert from "node:assert/strict";
import { byCallers } from "../contenders/contender.js";
import { openManager } from "../contenders/redthread.js";
import type * as Tasks from "../contenders/values-tasks.js";
import { closedLoop, type Rate } from "../support/closed-loop.js";
import { inputOfParent, serveParent } from "../support/own-process.js";
import { flat, FROZEN, longBuffer, nested, shortBuffer } from "./shapes.js";

export interface ValuesInput {
  readonly port: number;
  /** There are values of 4 kB at `bench:0` to one less. */
  readonly keys: number;
}

export interface ValuesLoad {
  readonly shape: ShapeName;
  readonly callers: number;
  readonly leadMs: number;
  readonly ms: number;
}

/** 12-byte Buffers whose caller keeps them all. */
export interface KeptLoad {
  readonly results: number;
  readonly callers: number;
}

export interface Kept extends Record<string, number> {
  /** Where the process stopped early, scaled up to all results. */
  readonly rssMiB: number;
  /** What the main thread's ArrayBuffers have of it. */
  readonly buffersMiB: number;
}

export type ShapeName = keyof typeof SHAPES;

interface Shape {
  readonly call: (n: number) => Promise<unknown>;
  readonly expected: (n: number) => unknown;
}

const MIB = 2 ** 20;
/** Where the results have a slab of 64 kB each, as in Node 24, all of them would take more than many machines have. */
const MOST_MIB = 1_500;
const { port, keys } = inputOfParent() as ValuesInput;
const manager = openManager<typeof Tasks>("values-tasks.js", { port, threads: 2 });

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
  const scale = results / kept.length; // also a use of the results after the collection, which must not take them
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
