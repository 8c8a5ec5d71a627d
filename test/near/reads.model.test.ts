/**
 * `node dist/test/near/reads.model.test.js [--cases N] [--seed S]`: reads through the near cache, in every order, beside plain GETs.
 */
import assert from "node:assert/strict";
import { after, test, type TestContext } from "node:test";
import { parseArgs } from "node:util";
import * as fc from "fast-check";
import type { NearCache } from "../../src/near/near-cache.js";
import { eventually } from "../support/gate.js";
import { code } from "../support/manage.js";
import { type NearWorld, openNearWorld } from "../support/near-world.js";
import { startRedis } from "../support/redis-server.js";

const { values: args } = parseArgs({ options: { cases: { type: "string" }, seed: { type: "string" } } });
const numRuns = Number(args.cases ?? 60);
const seed = Number(args.seed ?? (args.cases === undefined ? 1 : Math.floor(Math.random() * 2 ** 31)));
const LIMIT = { timeout: 180_000 };
const LIMIT_MS = 90_000;

const server = await startRedis();
after(() => server.stop());

const MAX_VALUE_BYTES = 2_000;
const PREFIXES = ["near:", "ключ:", "b\0:"];
const KEYS: readonly (string | Buffer)[] = [
  "near:",
  "near:a",
  Buffer.from("near:a"), // the same one
  "near:ключ😀",
  "ключ:1",
  Buffer.from("ключ:1"),
  Buffer.from([0x62, 0, 0x3a, 0xff, 0xfe, 0x0d, 0x0a]),
  Buffer.from([...Buffer.from("near:"), 0xed, 0xa0, 0x80]),
  "near:\ud83d", // half a pair: it is sent as the replacement character
  "near:\ufffd",
  `near:${"k".repeat(1_000)}`,
  `near:${"k".repeat(1_019)}`, // as long as a key may be
  `near:${"k".repeat(1_020)}`,
  `near:${"ю".repeat(600)}`, // short enough in characters, too long in bytes
  `near:${"ю".repeat(601)}`,
  "near:ÿ",
  Buffer.from([...Buffer.from("near:"), 0xff]), // its bytes have the numbers of the characters of the one before
  Buffer.from(`near:${"k".repeat(5_000)}`),
];
const OUTSIDE: readonly (string | Buffer)[] = [
  "nea",
  "Near:a",
  " near:a",
  "other:near:",
  "",
  Buffer.from("nea:"),
  Buffer.from("b:"),
];

const text = (unit: fc.Arbitrary<string>, maxLength = 200): fc.Arbitrary<Buffer> =>
  fc.string({ unit, maxLength }).map((made) => Buffer.from(made));
const values: fc.Arbitrary<Buffer> = fc.oneof(
  text(fc.integer({ min: 0, max: 127 }).map((point) => String.fromCharCode(point))),
  text(fc.integer({ min: 0, max: 255 }).map((point) => String.fromCharCode(point))),
  text(fc.constantFrom("a", "é", "Ā", "€", "😀", "\uFEFF", "\0")),
  fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
  fc.json().map((json) => Buffer.from(json)),
  fc.constantFrom(
    ...["", "efbbbf", "efbbbf7b7d", "eda080", "c0af", "6e756c6c", "ff"].map((hex) => Buffer.from(hex, "hex")),
  ),
  fc
    .record({
      length: fc.integer({ min: MAX_VALUE_BYTES - 2, max: MAX_VALUE_BYTES + 2 }),
      byte: fc.constantFrom(97, 255),
    })
    .map(({ length, byte }) => Buffer.alloc(length, byte)),
);

const HOWS = ["get", "getBuffer", "json", "mget", "peek"] as const;
type Act =
  | { act: "set"; key: number; value: Buffer; cache: number }
  | { act: "del"; key: number; cache: number }
  | { act: "read"; how: (typeof HOWS)[number]; key: number; cache: number; fresh: boolean; times: number }
  | { act: "flush"; cache: number };
const at = { key: fc.nat(KEYS.length - 1), cache: fc.nat(1) };
const act = fc.oneof(
  { weight: 6, arbitrary: fc.record({ act: fc.constant("set"), value: values, ...at }) },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("del"), ...at }) },
  {
    weight: 30,
    arbitrary: fc.record({
      act: fc.constant("read"),
      how: fc.constantFrom(...HOWS),
      fresh: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
      times: fc.integer({ min: 1, max: 3 }),
      ...at,
    }),
  },
  { weight: 1, arbitrary: fc.record({ act: fc.constant("flush"), cache: at.cache }) },
) as fc.Arbitrary<Act>;

type Outcome = { readonly value: unknown } | { readonly error: string };

async function outcomeOf(read: () => unknown): Promise<Outcome> {
  try {
    return { value: await read() };
  } catch (error) {
    return { error: (error as Error).name };
  }
}

function parsed(value: string | null): Outcome {
  try {
    return { value: value === null ? null : JSON.parse(value) };
  } catch {
    return { error: "SyntaxError" };
  }
}

function peeked(near: NearCache, key: string | Buffer): string | null | undefined {
  return near.peek(key);
}

/** What a plain GET gives, in the form of the read. */
async function expected({ clients }: NearWorld, how: (typeof HOWS)[number], key: string | Buffer): Promise<Outcome> {
  const { redis } = clients[0]!;
  if (how === "getBuffer") return { value: await redis.getBuffer(key) };
  const value = await redis.get(key);
  if (how === "json") return parsed(value);
  return { value: how === "mget" ? [value, value] : value };
}

async function run(world: NearWorld, one: Act, tally: { peeked: number }): Promise<void> {
  const { redis } = world.clients[one.cache]!;
  const near = world.caches[one.cache]!;
  if (one.act === "flush") return void (await redis.flushdb());
  const key = KEYS[one.key]!;
  if (one.act === "set") return void (await redis.set(key, one.value));
  if (one.act === "del") return void (await redis.del(key));
  const { how, fresh, times } = one;
  const plain = await expected(world, how, key);
  const options = { fresh };
  const read = (): unknown => {
    if (how === "mget") return near.mget([key, key], options);
    return how === "peek" ? peeked(near, key) : near[how](key, options);
  };
  const outcomes = await Promise.all(Array.from({ length: times }, () => outcomeOf(read)));
  for (const outcome of outcomes) {
    if (how === "peek" && "value" in outcome && outcome.value === undefined) continue;
    if (how === "peek") tally.peeked++;
    assert.deepEqual(outcome, plain);
  }
}

async function compare(t: TestContext, world: NearWorld): Promise<void> {
  const tally = { peeked: 0 };
  await world.served();
  const property = fc.asyncProperty(fc.array(act, { minLength: 1, maxLength: 120, size: "max" }), async (acts) => {
    await server.admin.flushall();
    for (const cache of world.caches) await eventually(() => peeked(cache, "near:a") === undefined, 10_000);
    for (const one of acts) await run(world, one, tally);
  });
  await fc.assert(property, { seed, numRuns, interruptAfterTimeLimit: LIMIT_MS });
  const { nearOwnHits, nearSharedHits, nearMisses, nearOversize } = world.counts;
  t.diagnostic(`seed ${seed}: ${nearOwnHits} + ${nearSharedHits} hits, ${nearMisses} misses, ${tally.peeked} peeked`);
  assert.ok(nearOwnHits > numRuns && nearSharedHits > numRuns && nearOversize > 0 && tally.peeked > numRuns);
}

test("reads in every order give what plain GETs give", LIMIT, async (t) => {
  const nearCache = { prefixes: PREFIXES, maxValueBytes: MAX_VALUE_BYTES, ownTableBytes: 4_000 };
  await compare(t, await openNearWorld(t, server, { nearCache }));
});

test("reads in every order give what plain GETs give, with a keyPrefix", LIMIT, async (t) => {
  const nearCache = { prefixes: PREFIXES, maxValueBytes: MAX_VALUE_BYTES };
  await compare(t, await openNearWorld(t, server, { nearCache, redis: { keyPrefix: "ü\0app:" } }));
});

const refused = (error: unknown): boolean =>
  code("COMMAND_REFUSED")(error) && /nearCache\.prefixes/.test(String(error));

test("a key beside the prefixes is refused by name, however it is read", LIMIT, async (t) => {
  const { caches } = await openNearWorld(t, server, { nearCache: { prefixes: PREFIXES } });
  const near = caches[0]!;
  for (const key of OUTSIDE) {
    for (const how of ["get", "getBuffer", "json"] as const) await assert.rejects(near[how](key), refused);
    await assert.rejects(near.get(key, { fresh: true }), refused);
    await assert.rejects(near.mget(["near:a", key]), refused);
    assert.throws(() => near.peek(key), refused);
  }
});

/** Reads until the value comes from memory. */
async function warm(near: NearCache, key: string): Promise<string | null> {
  return eventually(async () => {
    await near.get(key);
    const value = near.peek(key);
    return value === undefined ? false : { value };
  }).then(({ value }) => value);
}

test("the bytes that callers get are theirs alone, from memory and from the server", LIMIT, async (t) => {
  const { caches, served } = await openNearWorld(t, server);
  const near = caches[0]!;
  await served();
  for (const value of [
    Buffer.from("text"),
    Buffer.from("é"),
    Buffer.from("€ 1"),
    Buffer.from([255, 0, 1]),
    Buffer.alloc(20_000, 255),
  ]) {
    await server.admin.set("near:bytes", value);
    await eventually(async () => value.equals((await near.getBuffer("near:bytes"))!));
    const before = near.getBuffer("near:bytes", { fresh: true });
    const all = await Promise.all([
      before,
      ...Array.from({ length: 20 }, (_, i) => near.getBuffer("near:bytes", { fresh: i > 15 })),
    ]);
    await warm(near, "near:bytes");
    for (let i = 0; i < 20; i++) all.push(await near.getBuffer("near:bytes"));
    for (const [i, one] of all.entries()) {
      assert.deepEqual(one, value);
      assert.ok(!(one.buffer instanceof SharedArrayBuffer));
      one.fill(i);
    }
    for (const [i, one] of all.entries()) assert.ok(one!.every((byte) => byte === i));
    assert.deepEqual(await near.getBuffer("near:bytes"), value);
    assert.deepEqual(await caches[1]!.getBuffer("near:bytes"), value);
  }
});

function isFrozenInDepth(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return true;
  return Object.isFrozen(value) && Object.values(value).every(isFrozenInDepth);
}

test("a parsed value is one object for each version, and frozen in depth", LIMIT, async (t) => {
  const { caches, clients, served } = await openNearWorld(t, server);
  const near = caches[0]!;
  await served();
  const json = '{"list":[1,{"deep":[{}]}],"null":null,"__proto__":{"own":[1]},"text":"a"}';
  await clients[0]!.redis.set("near:json", json);
  await warm(near, "near:json");
  const [one, other] = await Promise.all([near.json("near:json"), near.json("near:json")]);
  assert.deepEqual(one, JSON.parse(json));
  assert.equal(one, other);
  assert.equal(await near.json("near:json"), one);
  assert.ok(isFrozenInDepth(one));
  assert.ok(Object.hasOwn(one as object, "__proto__"));
  const joined = await Promise.all([near.json("near:json", { fresh: true }), near.json("near:json", { fresh: true })]);
  assert.equal(joined[0], joined[1]);
  assert.ok(isFrozenInDepth(joined[0]));
  await clients[0]!.redis.set("near:json", "[2]");
  assert.deepEqual(await near.json("near:json"), [2]);
  assert.deepEqual(one, JSON.parse(json));
  for (const [value, expectedValue] of [
    ["null", null],
    ["0", 0],
    ['""', ""],
    ["false", false],
  ] as const) {
    await clients[0]!.redis.set("near:json", value);
    for (let i = 0; i < 3; i++) assert.equal(await near.json("near:json"), expectedValue);
  }
});

test("a value that is nested 100 000 levels deep is parsed and frozen", LIMIT, async (t) => {
  const { caches, clients, served } = await openNearWorld(t, server, { nearCache: { maxValueBytes: 1 << 20 } });
  await served();
  for (const [open, inner, close] of [
    ["[", "", "]"],
    ['{"a":', "1", "}"],
  ] as const) {
    await clients[0]!.redis.set("near:deep", open.repeat(100_000) + inner + close.repeat(100_000));
    for (let i = 0; i < 3; i++) {
      let value = await caches[0]!.json("near:deep");
      let levels = 0;
      for (; typeof value === "object" && value !== null; levels++) {
        assert.ok(Object.isFrozen(value));
        value = Object.values(value)[0];
      }
      assert.equal(levels, 100_000);
    }
  }
});

test("what is no JSON is refused without a word of it, and a list as GET refuses it", LIMIT, async (t) => {
  const { caches, clients, served } = await openNearWorld(t, server);
  const { redis } = clients[0]!;
  await served();
  const secret = "s3cret password"; // V8 would quote it
  await redis.set("near:bad", secret);
  for (let i = 0; i < 4; i++) {
    await assert.rejects(caches[i % 2]!.json("near:bad"), (error: Error) => {
      assert.equal(error.name, "SyntaxError");
      assert.match(error.message, /near:bad/);
      assert.doesNotMatch(`${error.stack} ${String(error.cause)}`, /s3cret|password/);
      return true;
    });
    assert.equal(await caches[i % 2]!.get("near:bad"), secret);
  }
  await redis.rpush("near:list", "1");
  const plain = (await redis.get("near:list").catch((error: unknown) => error)) as Error;
  for (const how of ["get", "getBuffer", "json"] as const)
    await assert.rejects(caches[0]![how]("near:list"), { name: plain.name, message: plain.message });
  await assert.rejects(caches[0]!.mget(["near:bad", "near:list"]), { message: plain.message });
  await redis.del("near:list");
  assert.equal(await caches[0]!.get("near:list"), null);
});

test("a missing key is a hit, until others make it", LIMIT, async (t) => {
  const { caches, served } = await openNearWorld(t, server);
  await served();
  await server.admin.del("near:nil");
  assert.equal(await warm(caches[0]!, "near:nil"), null);
  assert.equal(await warm(caches[1]!, "near:nil"), null);
  assert.deepEqual(
    await Promise.all([caches[0]!.getBuffer("near:nil"), caches[0]!.json("near:nil"), caches[0]!.mget(["near:nil"])]),
    [null, null, [null]],
  );
  await server.admin.set("near:nil", "made");
  for (const near of caches) await eventually(async () => (await near.get("near:nil")) === "made");
});

test("a value is not served after its end, and of many keys that end none is", LIMIT, async (t) => {
  const keys = 1_000;
  const hour = 3_600_000;
  const { caches, clients, counts, served } = await openNearWorld(t, server, {
    nearCache: { maxStaleMs: hour, maxAgeMs: hour },
  });
  const { redis } = clients[0]!;
  await served();
  // The server finds keys that have ended in its own time: it tells of them later.
  await server.admin.config("SET", "hz", "1");
  const names = Array.from({ length: keys }, (_, i) => `near:ends:${i}`);
  // The first end is late enough for a busy machine to read all of them before.
  const ends = names.map((_, i) => 4_000 + i);
  await Promise.all(names.map((name, i) => redis.set(name, "value", "PX", ends[i]!)));
  const written = performance.now();
  let hits = 0;
  for (let round = 0; performance.now() - written < 4_000 + keys + 200; round++) {
    for (let look = 0; look < 10; look++)
      for (const [i, name] of names.entries()) {
        const before = performance.now();
        if (caches[round % 2]!.peek(name) !== "value") continue;
        hits++;
        assert.ok(before - written <= ends[i]!, `${name} is served after its end`);
      }
    await Promise.all(names.map((name) => caches[0]!.get(name)));
  }
  await server.admin.config("SET", "hz", "10");
  assert.ok(hits > 0 && counts.nearFills > 0, `${hits} hits, ${counts.nearFills} fills`);
});
