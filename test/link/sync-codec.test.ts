import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { readSync, SyncWriter } from "../../src/link/sync-codec.js";

/** Shared memory that is too small for most of the values, and large enough for some. */
const memory = Buffer.from(new SharedArrayBuffer(256));
const writer = new SyncWriter(memory);

function crossed(value: unknown, bytesAre?: "text"): unknown {
  const written = writer.write(value, bytesAre);
  return readSync(typeof written === "number" ? memory : Buffer.from(written));
}

const bytes = fc.uint8Array({ maxLength: 300 }).map((part) => Buffer.from(part));
const text = fc.oneof(fc.string({ unit: "binary", maxLength: 300 }), fc.string({ maxLength: 300 }));
const { value } = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    fc.constantFrom(null, undefined, true, false),
    fc.double(),
    fc.bigInt(),
    text,
    bytes,
    fc.array(tie("value"), { maxLength: 5 }),
    fc.dictionary(text, tie("value"), { maxKeys: 5, noNullPrototype: true }),
    fc.array(fc.tuple(text, tie("value")), { maxLength: 5 }).map((pairs) => new Map(pairs)),
    fc.array(text, { maxLength: 5 }).map((members) => new Set(members)),
  ),
}));

test("every value that a reply can hold arrives as it was, also if it outgrows the memory", () => {
  fc.assert(fc.property(value, (sent) => assert.deepStrictEqual(crossed(sent), wellFormed(sent))));
});

test("bytes that the reader wants as text arrive decoded", () => {
  fc.assert(
    fc.property(fc.array(bytes), (sent) =>
      assert.deepEqual(
        crossed(sent, "text"),
        sent.map((part) => part.toString("utf8")),
      ),
    ),
  );
});

test("a value that was read does not change when the memory is written again", () => {
  const first = crossed([Buffer.from("first"), "first"]);
  crossed([Buffer.from("other"), "other"]);
  assert.deepEqual(first, [Buffer.from("first"), "first"]);
});

test("a value that neither side knows is refused before it is sent", () => {
  for (const wrong of [Symbol("s"), () => {}]) assert.throws(() => writer.write([wrong]), TypeError);
});

/** Half a surrogate pair has no UTF-8, as on the way to Redis. */
function wellFormed(part: unknown): unknown {
  if (typeof part === "string") return Buffer.from(part).toString();
  if (part instanceof Map) return new Map([...part].map((pair) => wellFormed(pair) as [unknown, unknown]));
  if (part instanceof Set) return new Set([...part].map(wellFormed));
  if (Array.isArray(part)) return part.map(wellFormed);
  if (typeof part !== "object" || part === null || Buffer.isBuffer(part)) return part;
  return Object.fromEntries(Object.entries(part).map((pair) => wellFormed(pair) as [string, unknown]));
}
