// The keys and values of the tests of the near cache's promise. A value names its key, the server it was written to and its
// write, and its body follows from the number of the write: a value that is mixed from two, or belongs to another key, is seen.
import { seeded } from "./seeded.js";

export const NEAR_PREFIX = "near:";

const KINDS = ["ascii", "latin1", "utf16", "bytes", "json"] as const;
const SIZES = [20, 300, 4_000, 40_000];
const UNITS = 60_000;

export interface NearKey {
  readonly name: string;
  readonly kind: (typeof KINDS)[number];
  /** Bytes of the body, about. */
  readonly size: number;
}

/** Most of them are small, and the first ones are read most often. */
export function nearKeys(count: number): NearKey[] {
  return Array.from({ length: count }, (_, i) => {
    const size = SIZES[Math.floor(i / KINDS.length) % SIZES.length]!;
    return { name: `${NEAR_PREFIX}${i % 7 === 0 ? "schlüssel" : "key"} ${i}`, kind: KINDS[i % KINDS.length]!, size };
  });
}

/** A unit is decoded alike wherever it stands, so that a body can be cut at each of them. */
interface Base {
  readonly text: string;
  readonly bytes: Buffer;
  readonly chars: number;
  readonly size: number;
}

const bases: Record<NearKey["kind"], Base> = {
  ascii: baseOf((random) => Buffer.from([97 + random(26)])),
  json: baseOf((random) => Buffer.from([97 + random(26)])),
  latin1: baseOf((random) => Buffer.from(String.fromCharCode(0xc0 + random(63)))),
  utf16: baseOf((random) => Buffer.from(String.fromCharCode(0x4e00 + random(20_000)))),
  bytes: baseOf((random) => Buffer.from([0xff, 97 + random(26), 0xc3, 40])),
};

function baseOf(unit: (random: (below: number) => number) => Buffer): Base {
  const next = seeded(29);
  const units = Array.from({ length: UNITS }, () => unit((below) => Math.floor(next() * below)));
  const bytes = Buffer.concat(units);
  const text = bytes.toString();
  return { text, bytes, chars: text.length / UNITS, size: bytes.length / UNITS };
}

interface Body {
  readonly base: Base;
  readonly from: number;
  readonly units: number;
}

function bodyOf({ kind, size }: NearKey, write: number): Body {
  const base = bases[kind];
  const units = Math.ceil(size / base.size) + (write % 3);
  return { base, from: (write * 7_919) % (UNITS - units), units };
}

function aroundBody({ name, kind }: NearKey, server: number, write: number): [head: string, tail: string] {
  const head = `${name}|${server}|${write}|`;
  return kind === "json" ? [`{"head":"${head}","body":"`, `"}`] : [head, ""];
}

export function nearText(key: NearKey, server: number, write: number): string {
  const { base, from, units } = bodyOf(key, write);
  const [head, tail] = aroundBody(key, server, write);
  return head + base.text.slice(from * base.chars, (from + units) * base.chars) + tail;
}

export function nearBytes(key: NearKey, server: number, write: number): Buffer {
  const { base, from, units } = bodyOf(key, write);
  const [head, tail] = aroundBody(key, server, write);
  const body = base.bytes.subarray(from * base.size, (from + units) * base.size);
  return Buffer.concat([Buffer.from(head), body, Buffer.from(tail)]);
}

const HEAD = /^(?:\{"head":")?([^|]*)\|(\d+)\|(\d+)\|/;

/** The number of the write that the value is of. @throws if it is of another key, or of no single write */
export function writeIn(key: NearKey, value: string | Buffer): number {
  const found = HEAD.exec(Buffer.isBuffer(value) ? value.subarray(0, 100).toString() : value.slice(0, 100));
  if (found && found[1] !== key.name) throw new Error(`of another key: ${key.name} has ${found[0]}`);
  const [server, write] = [Number(found?.[2]), Number(found?.[3])];
  const isWhole = Buffer.isBuffer(value)
    ? value.equals(nearBytes(key, server, write))
    : value === nearText(key, server, write);
  if (!found || !isWhole) throw new Error(`torn: ${key.name}, ${value.length}, ${found?.[0]}`);
  return write;
}
