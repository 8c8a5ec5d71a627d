import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Client } from "../../src/connection/client.js";
import { eventually, gate, type Gate } from "../support/gate.js";
import { type NearWorld, openNearWorld } from "../support/near-world.js";
import { nowNs } from "../support/near-writer.js";
import { startProxy } from "../support/proxy.js";
import { startRedis } from "../support/redis-server.js";

// The server tells of a write at the end of the cycle of its loop, and so after the answer to a question of the same cycle. Here the
// answer arrives, and the invalidation behind it never does.

const LIMIT = { timeout: 60_000 };
const KEY = "near:k";
const BLOCKED_MS = 100;
/** Turns of the event loop in which a question passes the proxy. */
const TURNS = 20;
const ROUNDS = 2;
/** In some rounds answer and invalidation may come in different cycles. */
const TRIES = 20;

/** Gives the server's time at its begin, which is when the write ahead of it was done. */
const COMPUTE = `local from = redis.call("time") repeat local t = redis.call("time")
  until (t[1] - from[1]) * 1000 + (t[2] - from[2]) / 1000 > ${BLOCKED_MS} return from`;
const INVALIDATION = ">2\r\n$10\r\ninvalidate\r\n";

const server = await startRedis();
const proxy = await startProxy(server.port);
after(async () => {
  proxy.close();
  await server.stop();
});

/** Holds the questions that prove freshness before they leave. */
class Questions {
  #gate: Gate | undefined;
  #held = 0;

  readonly watch = (tracker: Client): void => {
    const handle = tracker.redis;
    const own = handle.own.bind(handle);
    handle.own = async (...command) => {
      if (command[1] === "replication" && this.#gate) {
        this.#held++;
        await this.#gate.promise;
      }
      return own(...command);
    };
  };

  /** Resolves when one is held: no other is under way. */
  async hold(): Promise<void> {
    this.#held = 0;
    this.#gate = gate();
    await eventually(() => this.#held > 0, 20_000, "a question is held");
  }

  release(): void {
    this.#gate?.open();
    this.#gate = undefined;
  }
}

/** The next answer with an invalidation right behind it arrives, and then nothing more. */
function loseInvalidation(how: Case["how"]): () => boolean {
  let isLost = false;
  proxy.filterReplies = (chunk, end) => {
    const at = chunk.indexOf(INVALIDATION);
    if (isLost || at < 1 || !chunk.subarray(0, at).includes("role:master")) return chunk;
    isLost = true;
    if (how === "cut") proxy.cutAfterReplyBytes(at);
    else end("dark");
    return chunk.subarray(0, at);
  };
  return () => isLost;
}

async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** On the clock of the reads. */
interface Written {
  readonly doneAt: number;
  readonly acknowledgedAt: number;
}

/** One write to the socket, so that the server reads the script right behind the SET. */
async function writeAndCompute(value: string): Promise<Written> {
  const [, computed] = (await server.admin
    .pipeline([
      ["set", KEY, value],
      ["eval", COMPUTE, 0],
    ])
    .exec())!;
  const now = Date.now(); // first, so that a pause between the two looks makes no age larger
  const acknowledgedAt = nowNs();
  const [seconds, microseconds] = computed![1] as [string, string];
  const agoMs = now - Number(seconds) * 1_000 - Number(microseconds) / 1_000;
  return { doneAt: acknowledgedAt - agoMs * 1e6, acknowledgedAt };
}

/** When the last read began that saw `value`. 0: none. */
async function lastSeen({ caches }: NearWorld, value: string, isOver: () => boolean): Promise<number> {
  let last = 0;
  while (!isOver()) {
    for (const near of caches) {
      const began = nowNs();
      if (near.peek(KEY) === value) last = began;
    }
    await turns(1);
  }
  return last;
}

interface Case {
  readonly maxStaleMs: number;
  /** The answer is on its way for so long, while the acknowledgement of the write is there at once. */
  readonly lateMs: number;
  readonly how: "cut" | "dark";
}

const CASES = [
  { maxStaleMs: 100, lateMs: 0 },
  { maxStaleMs: 150, lateMs: 0 },
  { maxStaleMs: 250, lateMs: 50 },
].flatMap((times): Case[] => [
  { ...times, how: "cut" },
  { ...times, how: "dark" },
]);

/** Whether an answer has overtaken an invalidation while the old value was served. */
async function overtakes(world: NearWorld, questions: Questions, { maxStaleMs, lateMs, how }: Case): Promise<boolean> {
  await questions.hold();
  server.freeze(); // and reads question and write at once
  const isLost = loseInvalidation(how);
  let written: Written | undefined;
  const writing = writeAndCompute("new").then((times) => (written = times));
  await turns(1);
  questions.release();
  await turns(TURNS);
  proxy.latencyMs = lateMs;
  const thawedAt = nowNs();
  server.thaw();
  let hasFailed = false;
  writing.catch(() => (hasFailed = true));
  const isOver = (): boolean =>
    hasFailed || (written !== undefined && nowNs() > written.acknowledgedAt + 2 * maxStaleMs * 1e6);
  const last = await lastSeen(world, "old", isOver);
  for (const [what, at] of Object.entries(await writing)) {
    const ageMs = (last - at) / 1e6;
    assert.ok(ageMs <= maxStaleMs, `the old value was read ${ageMs} ms after the write (${what})`);
  }
  proxy.latencyMs = 0;
  proxy.filterReplies = undefined;
  proxy.reset();
  return isLost() && last > thawedAt;
}

for (const one of CASES)
  test(
    `a server computes behind a write, and its answer overtakes what it tells of the write: ${JSON.stringify(one)}`,
    LIMIT,
    async (t) => {
      const questions = new Questions();
      const nearCache = { maxStaleMs: one.maxStaleMs };
      const world = await openNearWorld(t, server, {
        nearCache,
        trackedPort: proxy.port,
        onTracker: questions.watch,
      });
      t.after(() => questions.release());
      const isServed = async (): Promise<boolean> => {
        for (const near of world.caches) await near.get(KEY);
        return world.caches.every((near) => near.peek(KEY) === "old");
      };
      for (let i = 0, overtaken = 0; overtaken < ROUNDS; i++) {
        assert.ok(i < TRIES, "no answer has overtaken an invalidation while the old value was served");
        await server.admin.set(KEY, "old");
        await eventually(isServed, 20_000);
        if (await overtakes(world, questions, one)) overtaken++;
        await world.served();
        for (const near of world.caches) assert.equal(await near.get(KEY), "new");
      }
    },
  );
