import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Client } from "../../src/connection/client.js";
import { sharedClock } from "../../src/core/clock.js";
import { Tracking } from "../../src/keeper/tracking.js";
import { WORDS_PER_SEGMENT } from "../../src/near/near-buffers.js";
import type { NearCache } from "../../src/near/near-cache.js";
import { OFF, TRACKING } from "../../src/near/near-memory.js";
import { eventually, gate, type Gate } from "../support/gate.js";
import { type NearWorld, openNearWorld } from "../support/near-world.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";
import { silent } from "../support/silent.js";

const LIMIT = { timeout: 60_000 };

const ACL = [
  "user default on nopass ~* &* +@all",
  "user untracked on >pw ~* &* +@all -client|tracking",
  "user uninformed on >pw ~* &* +@all -info",
  "user timeless on >pw ~* &* +@all -pttl",
].join("\n");
const server = await startRedis({ acl: `${ACL}\n` });
after(() => server.stop());

/** Reads until the value comes from memory. */
async function warm(near: NearCache, key: string): Promise<void> {
  await eventually(async () => {
    await near.get(key);
    return near.peek(key) !== undefined;
  }, 20_000);
}

interface Question {
  readonly sentAt: number;
  readonly answer: Gate;
}

/** Holds the answers to the questions that prove freshness. */
function holdAnswers(tracker: Client, questions: Question[]): void {
  const handle = tracker.redis;
  const own = handle.own.bind(handle);
  handle.own = async (...command) => {
    if (command[1] !== "replication") return own(...command);
    const question = { sentAt: sharedClock(), answer: gate() };
    questions.push(question);
    const answer = await own(...command);
    await question.answer.promise;
    return answer;
  };
}

const untilNextMs = async (): Promise<void> => {
  const now = sharedClock();
  await eventually(() => sharedClock() !== now);
};

test("an answer moves the lease to the question before it, and one question is asked at a time", LIMIT, async (t) => {
  const maxStaleMs = 60_000;
  const questions: Question[] = [];
  const onTracker = (tracker: Client): void => holdAnswers(tracker, questions);
  const { memory } = await openNearWorld(t, server, { nearCache: { maxStaleMs }, onTracker });
  for (let asked = 1; asked <= 4; asked++) {
    await eventually(() => questions.length === asked, 20_000);
    const before = memory.leaseUntil;
    await untilNextMs();
    await server.admin.ping(); // the answer is there, and held
    assert.equal(questions.length, asked);
    assert.equal(memory.leaseUntil, before);
    questions.at(-1)!.answer.open();
    if (asked === 1) continue;
    await eventually(() => memory.leaseUntil !== before);
    const { sentAt } = questions[asked - 2]!;
    const since = (memory.leaseUntil - maxStaleMs) | 0;
    assert.ok(((since - sentAt) | 0) < 0, "a ms before the question was sent, because words are whole");
    assert.ok(((sentAt - since) | 0) < 1_000);
    assert.ok(((since - questions[asked - 1]!.sentAt) | 0) < -1);
  }
  for (const { answer } of questions) answer.open();
  await eventually(() => questions.length > 4, 20_000);
  assert.equal(memory.get("connects"), 1);
  questions.at(-1)!.answer.open();
});

test(
  "with the connection the lease is gone, and what was read before is not served on the next one",
  LIMIT,
  async (t) => {
    const proxy = await startProxy(server.port);
    t.after(() => proxy.close());
    const { memory, caches, tracker, served } = await openNearWorld(t, server, { trackedPort: proxy.port });
    const near = caches[0]!;
    await served();
    await server.admin.set("near:a", "old");
    for (let i = 1; i <= 3; i++) {
      await warm(near, "near:a");
      const { epoch } = memory;
      proxy.down();
      proxy.reset();
      await eventually(() => tracker.state !== "connected");
      assert.equal(memory.leaseUntil, 0);
      assert.notEqual(memory.epoch, epoch);
      assert.equal(near.peek("near:a"), undefined);
      const whileAway = memory.epoch;
      await server.admin.set("near:a", `${i}`);
      assert.equal(await near.get("near:a"), `${i}`);
      await proxy.up();
      await eventually(() => memory.get("connects") === i + 1, 20_000);
      assert.notEqual(memory.epoch, whileAway, "what was asked for while nothing was told is dropped");
      await served();
      assert.equal(await near.get("near:a"), `${i}`);
    }
  },
);

test("FLUSHALL and FLUSHDB drop everything", LIMIT, async (t) => {
  const { memory, caches, served } = await openNearWorld(t, server);
  await served();
  for (const flush of ["flushall", "flushdb"] as const) {
    await server.admin.set("near:a", "old");
    for (const near of caches) await warm(near, "near:a");
    const { epoch } = memory;
    await server.admin[flush]();
    await eventually(() => memory.epoch === epoch + 1);
    for (const near of caches) assert.equal(near.peek("near:a"), undefined);
    for (const near of caches) assert.equal(await near.get("near:a"), null);
  }
});

test(
  "a machine that was suspended drops everything, and a clock that is corrected a little drops nothing",
  LIMIT,
  async (t) => {
    let aheadMs = 0;
    const { memory, caches, served } = await openNearWorld(t, server, { wallClock: () => Date.now() + aheadMs });
    await served();
    await server.admin.set("near:a", "old");
    await warm(caches[0]!, "near:a");
    const { epoch } = memory;
    const untilAskedTwice = async (): Promise<void> => {
      for (let i = 0; i < 2; i++) {
        const provedAt = memory.get("provedAt");
        await eventually(() => memory.get("provedAt") !== provedAt);
      }
    };
    aheadMs += 300;
    await untilAskedTwice();
    assert.equal(memory.epoch, epoch);
    for (const jump of [5_000, -5_000]) {
      const before = memory.epoch;
      aheadMs += jump;
      await untilAskedTwice();
      assert.equal(memory.epoch, before + 1);
      assert.equal(caches[0]!.peek("near:a"), undefined);
      await warm(caches[0]!, "near:a");
    }
  },
);

test("a keeper that was replaced moves no lease", LIMIT, async (t) => {
  const { config, memory, tracker, served } = await openNearWorld(t, server);
  await served();
  const generation = memory.nextGeneration();
  assert.equal(memory.leaseUntil, 0);
  const provedAt = memory.get("provedAt");
  await server.admin.ping();
  const calls = async (): Promise<number> =>
    Number(/cmdstat_info:calls=(\d+)/.exec(await server.admin.info("commandstats"))![1]);
  const before = await calls();
  await eventually(async () => (await calls()) > before + 5);
  assert.equal(memory.leaseUntil, 0);
  assert.equal(memory.get("provedAt"), provedAt);
  const { prefixes, maxStaleMs } = config.nearCache;
  const next = new Tracking({ client: tracker, memory, generation, prefixes: prefixes!, maxStaleMs, logger: silent });
  t.after(() => next.close());
  next.connected();
  await served();
});

test("a replica's answer ends the lease, and a master's brings back none of the values of before", LIMIT, async (t) => {
  const other = await startRedis();
  t.after(() => other.stop());
  const { memory, caches } = await openNearWorld(t, server, { trackedPort: other.port });
  const near = caches[0]!;
  await eventually(() => memory.leaseUntil !== 0, 20_000);
  const { epoch } = memory;
  await other.admin.replicaof("127.0.0.1", server.port);
  await eventually(() => memory.state === OFF, 20_000);
  assert.equal(memory.offReason, "replica");
  assert.equal(memory.leaseUntil, 0);
  assert.notEqual(memory.epoch, epoch);
  assert.equal(near.peek("near:a"), undefined);
  await other.admin.replicaof("NO", "ONE");
  await eventually(() => memory.leaseUntil !== 0, 20_000);
  assert.equal(memory.state, TRACKING);
});

test(
  "threads that are connected to another server than the keeper keep and serve nothing, and make it connect anew",
  LIMIT,
  async (t) => {
    const other = await startRedis();
    t.after(() => other.stop());
    const { memory, caches, counts, tracker } = await openNearWorld(t, server, { trackedPort: other.port });
    await eventually(() => memory.leaseUntil !== 0, 20_000);
    await server.admin.set("near:a", "here");
    await other.admin.set("near:a", "there");
    for (const near of caches) {
      for (let i = 0; i < 3; i++) assert.equal(await near.get("near:a"), "here");
      assert.equal(near.peek("near:a"), undefined);
    }
    assert.ok(counts.nearElsewhere > 0);
    assert.deepEqual([counts.nearFills, counts.nearOwnHits, counts.nearSharedHits], [0, 0, 0]);
    const { stream } = tracker.redis;
    caches[0]!.identified("f".repeat(40));
    await eventually(() => tracker.redis.stream !== stream && tracker.state === "connected", 20_000);
  },
);

/** All ways to read, with nothing in memory. */
async function readsPlainly({ caches, clients }: NearWorld): Promise<void> {
  await server.admin.set("near:plain", '{"a":1}');
  for (const [i, near] of caches.entries())
    for (let round = 0; round < 3; round++) {
      assert.equal(await near.get("near:plain"), '{"a":1}');
      assert.equal(String(await near.getBuffer("near:plain")), '{"a":1}');
      assert.deepEqual(await near.json("near:plain"), { a: 1 });
      assert.deepEqual(await near.mget(["near:plain", "near:none"]), ['{"a":1}', null]);
      assert.equal(await near.get("near:plain", { fresh: true }), '{"a":1}');
      assert.equal(near.peek("near:plain"), undefined);
      assert.equal(await clients[i]!.redis.get("near:plain"), '{"a":1}');
    }
}

for (const [why, redis, reason] of [
  ["a user who may not track", { username: "untracked", password: "pw" }, "CLIENT TRACKING"],
  ["a user who may not ask for INFO", { username: "uninformed", password: "pw" }, "INFO"],
  ["RESP2", { ioredis: { protocol: 2 as const } }, "RESP3"],
] as const)
  test(`with ${why} the cache is off: one warning, plain GETs, and nothing fails`, LIMIT, async (t) => {
    const warnings: string[] = [];
    const logger = { ...silent, warn: (message: string) => void warnings.push(message) };
    const world = await openNearWorld(t, server, { redis, logger });
    await eventually(() => world.memory.state === OFF, 20_000);
    assert.equal(world.memory.offReason, reason);
    await readsPlainly(world);
    assert.deepEqual(
      warnings.filter((message) => message.includes("near cache")),
      ["the near cache is off: every read asks Redis"],
    );
    assert.equal(world.counts.nearFills, 0);
  });

test("without the right to ask for the time to live nothing is kept, and nothing fails", LIMIT, async (t) => {
  const world = await openNearWorld(t, server, { redis: { username: "timeless", password: "pw" } });
  await world.served();
  await readsPlainly(world);
});

test("while all segments are filled by others nothing is kept, and nothing fails", LIMIT, async (t) => {
  const world = await openNearWorld(t, server);
  await world.served();
  const { segments, segmentWords } = world.memory;
  for (let segment = 0; segment < segments; segment++) segmentWords[segment * WORDS_PER_SEGMENT] = 1_000;
  await readsPlainly(world);
});

test("a value that is too large is not kept, and read all the same", LIMIT, async (t) => {
  const { caches, counts, served } = await openNearWorld(t, server, { nearCache: { maxValueBytes: 1_000 } });
  const near = caches[0]!;
  await served();
  await server.admin.set("near:a", "a".repeat(1_001));
  for (let i = 0; i < 3; i++) assert.equal(await near.get("near:a"), "a".repeat(1_001));
  assert.equal(near.peek("near:a"), undefined);
  assert.equal(counts.nearOversize, 3);
  await server.admin.set("near:a", "a".repeat(1_000));
  await eventually(async () => (await near.get("near:a"))?.length === 1_000);
  await warm(near, "near:a");
});
