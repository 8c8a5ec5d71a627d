/**
 * `node dist/test/near/near-log.model.test.js [--cases N] [--seed S]`: the log of the near cache against a table of what was
 * appended. Its segments and buckets are so few that each case takes segments again many times.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseArgs } from "node:util";
import * as fc from "fast-check";
import { timeWord } from "../../src/core/shared-time.js";
import { WORDS_PER_SEGMENT } from "../../src/near/near-buffers.js";
import { closeSegments, NearLog, type Ticket } from "../../src/near/near-log.js";
import { NearMemory } from "../../src/near/near-memory.js";
import { lookUp, placeOf, smallNear, ticketOf } from "../support/near-parts.js";

const { values: args } = parseArgs({ options: { cases: { type: "string" }, seed: { type: "string" } } });
const numRuns = Number(args.cases ?? 300);
const seed = Number(args.seed ?? (args.cases === undefined ? 1 : Math.floor(Math.random() * 2 ** 31)));

/** To make a failing case smaller takes long. */
const LIMIT_MS = 60_000;

const UNIT = 64;
const HEADER_BYTES = 32;
const SEGMENT_UNITS = 32;
const SEGMENT_BYTES = SEGMENT_UNITS * UNIT;
const LOGS = 3;
/** Times of the shared clock wrap in the middle of a case. */
const START = 2 ** 31 - 2_000;

const KEYS = [
  ...Array.from({ length: 12 }, (_, i) => Buffer.from(`k:${"x".repeat(i)}`)),
  Buffer.from("k:ключ"),
  Buffer.from([0x6b, 0xff, 0xfe, 0]),
  Buffer.alloc(0),
  Buffer.alloc(101, "k"),
];

const lengths = fc.oneof(
  fc.integer({ min: 0, max: 40 }),
  fc.integer({ min: 0, max: 300 }),
  // The record ends a few bytes behind the beginning of a unit.
  fc
    .record({ units: fc.integer({ min: 1, max: 3 }), beyond: fc.integer({ min: -20, max: 4 }) })
    .map(({ units, beyond }) => units * UNIT - 34 + beyond),
);
const text = (unit: fc.Arbitrary<string>): fc.Arbitrary<Buffer> =>
  fc.string({ unit, maxLength: 150 }).map((made) => Buffer.from(made));
const values: fc.Arbitrary<Buffer | null> = fc.oneof(
  fc.constant(null),
  text(fc.integer({ min: 0, max: 127 }).map((code) => String.fromCharCode(code))),
  text(fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code))),
  text(fc.constantFrom("a", "é", "Ā", "€", "😀", "\uFEFF", "\0")),
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  fc.constantFrom(
    ...["", "efbbbf", "efbbbf61", "eda080", "61edbfbf", "c0af", "f4908080", "e282", "ff"].map((hex) =>
      Buffer.from(hex, "hex"),
    ),
  ),
  // All its bytes are the first byte of a record's position.
  fc
    .record({ length: lengths, byte: fc.integer({ min: 1, max: 2 * SEGMENT_UNITS * LOGS }) })
    .map(({ length, byte }) => Buffer.alloc(Math.max(length, 0), byte)),
);

const anyKey = fc.nat(KEYS.length - 1);
const anyLog = fc.nat(LOGS - 1);
type Act =
  | { act: "append"; log: number; key: number; value: Buffer | null; ttl: number; isLate: boolean }
  | { act: "find"; log: number; key: number }
  | { act: "ask" | "invalidate"; key: number }
  | { act: "pass"; ms: number }
  | { act: "flush" }
  | { act: "close" | "end"; log: number };
const act: fc.Arbitrary<Act> = fc
  .oneof(
    {
      weight: 120,
      arbitrary: fc.record({
        act: fc.constant("append" as const),
        log: anyLog,
        key: anyKey,
        value: values,
        ttl: fc.integer({ min: 1, max: 3_000 }),
        isLate: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      }),
    },
    { weight: 90, arbitrary: fc.record({ act: fc.constant("find" as const), log: anyLog, key: anyKey }) },
    { weight: 16, arbitrary: fc.record({ act: fc.constantFrom("ask" as const, "invalidate" as const), key: anyKey }) },
    { weight: 10, arbitrary: fc.record({ act: fc.constant("pass" as const), ms: fc.integer({ min: 1, max: 500 }) }) },
    { weight: 6, arbitrary: fc.record({ act: fc.constantFrom("close" as const, "end" as const), log: anyLog }) },
    { weight: 1, arbitrary: fc.constant({ act: "flush" as const }) },
  )
  .map((one) => one as Act);

interface Appended {
  readonly ticket: Ticket;
  readonly deadline: number;
  readonly value: Buffer | null;
}

/** What may be found: the last value that was appended for each key. */
class Model {
  readonly buffers = smallNear({ segments: 2 * LOGS, segmentBytes: SEGMENT_BYTES, buckets: 4 });
  readonly memory = new NearMemory(this.buffers);
  readonly places = KEYS.map((one) => placeOf(this.memory, one));
  hits = 0;
  #owner = 0;
  #now = START;
  readonly #logs = Array.from({ length: LOGS }, () => this.#open());
  readonly #last = new Map<number, Appended>();
  readonly #asked = new Map<number, Ticket>();

  run(one: Act): void {
    const { memory } = this;
    switch (one.act) {
      case "append":
        return this.#append(one);
      case "find":
        return void this.#find(one.log, one.key);
      case "ask":
        return void this.#asked.set(one.key, ticketOf(memory, this.places[one.key]!));
      case "invalidate":
        return memory.invalidate(this.places[one.key]!.bucket);
      case "flush":
        return memory.flush();
      case "pass":
        this.#now = (this.#now + one.ms) | 0;
        return;
      case "close":
        return this.#logs[one.log]!.log.close();
      case "end":
        // The thread has ended without a word, and another one takes its place.
        closeSegments(memory, this.#logs[one.log]!.owner);
        this.#logs[one.log] = this.#open();
        return;
    }
  }

  #open(): { owner: number; log: NearLog } {
    const owner = ++this.#owner;
    return { owner, log: new NearLog(this.memory, this.buffers, owner) };
  }

  #append({ log: number, key: id, value, ttl, isLate }: Act & { act: "append" }): void {
    const place = this.places[id]!;
    const ticket = (isLate ? this.#asked.get(id) : undefined) ?? ticketOf(this.memory, place);
    const deadline = timeWord(this.#now + ttl);
    assert.ok(this.#logs[number]!.log.append(place, ticket, deadline, value), "there are two segments for each thread");
    this.#last.set(id, { ticket, deadline, value });
    if (this.#mayBeFound(id)) assert.ok(this.#find(number, id), "what was appended is found");
  }

  #find(number: number, id: number): boolean {
    const found = lookUp(this.memory, this.#logs[number]!.log, this.places[id]!, this.#now);
    if (!found) return false;
    this.hits++;
    assert.ok(this.#mayBeFound(id), "it is neither outdated nor at its end");
    const { value } = this.#last.get(id)!;
    assert.deepEqual(found.bytes, value);
    assert.equal(found.text, value && value.toString());
    return true;
  }

  #mayBeFound(id: number): boolean {
    const last = this.#last.get(id);
    if (!last || ((last.deadline - this.#now) | 0) <= 0) return false;
    const { version, epoch } = ticketOf(this.memory, this.places[id]!);
    return last.ticket.version === version && last.ticket.epoch === epoch;
  }
}

test("a value is found as it was appended, or not at all", (t) => {
  let hits = 0;
  const acts = fc.array(act, { minLength: 1, maxLength: 200, size: "max" });
  fc.assert(
    fc.property(acts, (all) => {
      const model = new Model();
      for (const one of all) model.run(one);
      hits += model.hits;
    }),
    { seed, numRuns, interruptAfterTimeLimit: LIMIT_MS },
  );
  t.diagnostic(`seed ${seed}: ${numRuns} cases, ${hits} hits`);
});

interface World {
  readonly memory: NearMemory;
  readonly log: NearLog;
  readonly open: () => NearLog;
  readonly put: (key: string, value: string | Buffer | null, from?: NearLog) => boolean;
  readonly get: (key: string, from?: NearLog) => string | null | undefined;
}

function world(segments: number, buckets = 64): World {
  const buffers = smallNear({ segments, segmentBytes: SEGMENT_BYTES, buckets });
  const memory = new NearMemory(buffers);
  let owner = 0;
  const open = (): NearLog => new NearLog(memory, buffers, ++owner);
  const log = open();
  const put: World["put"] = (name, value, from = log) => {
    const place = placeOf(memory, name);
    return from.append(place, ticketOf(memory, place), 1_000, value === null ? null : Buffer.from(value as string));
  };
  const get: World["get"] = (name, from = log) => lookUp(memory, from, placeOf(memory, name), 0)?.text;
  return { memory, log, open, put, get };
}

/** Fills the segment that is filled now up to its end, with records that nobody reads. */
function fillUp({ put, memory }: World): void {
  const head = (): number => Math.max(...headsOf(memory).filter((units) => units < SEGMENT_UNITS), 0);
  do put(`fill:${filled++}`, null);
  while (head() > 0);
}
let filled = 0;

/** All segments were filled, and the first one is taken again. */
function takeAgain(one: World): void {
  for (let i = 0; i < one.memory.segments; i++) fillUp(one);
  one.put("further", null);
}

/** How many units of each segment are filled. */
function headsOf({ segments, segmentWords }: NearMemory): number[] {
  return Array.from({ length: segments }, (_, segment) => segmentWords[segment * WORDS_PER_SEGMENT + 2]!);
}

test("nothing is dropped while there is room in the segments and in the bucket", () => {
  const { put, get } = world(4);
  for (let i = 0; i < 40; i++) put(`key:${i}`, `value ${i}`);
  const found = Array.from({ length: 40 }, (_, i) => get(`key:${i}`)).filter((value) => value !== undefined);
  assert.ok(found.length >= 38, `${found.length} of 40`); // a bucket of 64 may have five keys
  assert.deepEqual(new Set(found).size, found.length);
});

test("a record that was read outlives its segment, and one that was not read does not", () => {
  const one = world(3, 4_096);
  one.put("hot", "1");
  one.put("cold", "2");
  assert.equal(one.get("hot"), "1");
  takeAgain(one);
  assert.equal(one.get("cold"), undefined);
  assert.equal(one.get("hot"), "1");
  for (let i = 0; i < 2; i++) takeAgain(one);
  assert.equal(one.get("hot"), undefined, "it was read once since it was moved, and then no more");
});

test("records that are kept fill at most half of a segment, so that there is always room", () => {
  const one = world(2, 256);
  const value = "v".repeat(UNIT - 32 - 8);
  for (let i = 0; i < 500; i++) {
    assert.ok(one.put(`key:${i % 100}`, value));
    for (let j = 0; j < 100; j++) one.get(`key:${j}`);
  }
});

test("a key has one place, also when its record was moved to where another place led before", () => {
  const one = world(2, 1);
  one.put("a", "1");
  one.memory.index[0] = 1; // the first unit: the record has two places now
  assert.equal(one.get("a"), "1");
  one.put("a", "2");
  assert.deepEqual([...one.memory.index].filter(Boolean), [2]);
  assert.equal(one.get("a"), "2");
});

test("keys with one hash are told apart", () => {
  const { memory, log } = world(2);
  const one = placeOf(memory, "one");
  for (const [other, length] of [
    ["two", 3],
    ["oneself", 3],
    ["on", 2],
  ] as const) {
    log.append(one, ticketOf(memory, one), 1_000, Buffer.from("1"));
    const like = { ...one, bytes: Buffer.from(other), length };
    assert.equal(lookUp(memory, log, like, 0)?.text, other === "oneself" ? "1" : undefined);
    if (other === "oneself") continue;
    log.append(like, ticketOf(memory, like), 1_000, Buffer.from(other));
    assert.equal(lookUp(memory, log, like, 0)?.text, other);
    assert.equal(lookUp(memory, log, one, 0)?.text, "1");
  }
});

test("a place whose record was invalidated is taken before one with a record that counts", () => {
  const one = world(4, 1);
  for (const key of ["a", "b", "c", "d"]) one.put(key, key);
  one.memory.invalidate(0);
  one.put("d", "d again"); // the newest, and not read
  for (const key of ["a", "b", "c"]) assert.equal(one.get(key), undefined);
  for (const key of ["e", "f", "g"]) one.put(key, key);
  for (const [key, value] of [
    ["d", "d again"],
    ["e", "e"],
    ["f", "f"],
    ["g", "g"],
  ] as const)
    assert.equal(one.get(key), value);
});

test("of four records that count the one that was not read goes first, and then the oldest", () => {
  const one = world(4, 1);
  for (const key of ["a", "b", "c", "d"]) one.put(key, key);
  for (const key of ["a", "b", "d"]) assert.equal(one.get(key), key);
  one.put("e", "e");
  assert.equal(one.get("c"), undefined);
  for (const key of ["a", "b", "d", "e"]) assert.equal(one.get(key), key);
});

test("a thread without a free segment keeps nothing, and fails nothing", () => {
  const one = world(2);
  const [second, third] = [one.open(), one.open()];
  assert.equal(one.put("a", "1"), true);
  assert.equal(one.put("b", "2", second), true);
  assert.equal(one.put("c", "3", third), false);
  assert.equal(one.get("c", third), undefined);
  assert.equal(one.get("a", third), "1");
  second.close();
  assert.equal(one.put("c", "3", third), true);
  assert.equal(one.get("c"), "3");
  third.close();
  third.close(); // twice
  assert.equal(one.put("d", "4", second), true);
});

test("an invalidated record is not kept", () => {
  for (const isInvalidated of [false, true]) {
    const one = world(2, 4_096);
    one.put("hot", "1");
    assert.equal(one.get("hot"), "1");
    if (isInvalidated) one.memory.invalidate(placeOf(one.memory, "hot").bucket);
    takeAgain(one);
    assert.deepEqual(headsOf(one.memory), [isInvalidated ? 1 : 2, SEGMENT_UNITS]);
  }
});

test("a segment that is taken again is empty and another use, before one of its bytes changes", () => {
  const one = world(2, 4_096);
  one.put("a", "1");
  const place = placeOf(one.memory, "a");
  const [before, meanwhile] = [one.open(), one.open()];
  for (let i = 0; i < 2; i++) fillUp(one);
  assert.ok(before.find(place, one.memory.epoch, 0));
  assert.equal(before.text(), "1");
  assert.equal(before.isStill(), true);
  let looks = 0;
  const nextInOrder = one.memory.nextInOrder.bind(one.memory);
  // The moment between the two, as another thread sees it.
  one.memory.nextInOrder = () => {
    looks++;
    assert.equal(before.text(), "1");
    assert.equal(before.isStill(), false, "it is another use");
    assert.equal(meanwhile.find(place, one.memory.epoch, 0), false, "it is empty");
    return nextInOrder();
  };
  one.put("b", "2");
  assert.equal(looks, 1);
  assert.equal(before.isStill(), false);
});

test("what is left of an older record in the last unit of a newer one is not found", () => {
  const one = world(2, 4_096);
  const old = "o".repeat(UNIT);
  one.put("a", "1");
  one.put("old", old); // two units, from the second one of the log on
  for (let i = 0; i < 2; i++) fillUp(one);
  // The first segment is taken again. Its first record ends with one byte in the second unit, and it is the one that an old
  // position begins with. The record behind it has what was the end of the old one.
  const value = Buffer.alloc(UNIT - HEADER_BYTES - "new ".length + 1, "n");
  value[value.length - 1] = 2;
  one.put("new", value);
  one.put("next", "x".repeat(UNIT));
  assert.equal(one.get("new"), value.toString());
  assert.equal(one.get("old"), undefined);
});
