/**
 * `node dist/test/support/lock-model.js SEED RUNS`: plays so many schedules of holders, rivals and faults against a model server
 * under a clock of its own. The code of owners and keepers is the real one. A process of its own, because the test runner's hooks
 * would make it three times as slow.
 */
import assert from "node:assert/strict";
import * as fc from "fast-check";
import type { AnyClient } from "../../src/clients/open-client.js";
import type { Handle } from "../../src/commands/handle.js";
import type { Config, RedisConfig } from "../../src/config/options.js";
import { noopLogger } from "../../src/core/log.js";
import { Keeper } from "../../src/keeper/keeper.js";
import { LockQueues } from "../../src/keeper/lock-queues.js";
import type { Lock } from "../../src/locks/held-lock.js";
import { KeeperHost } from "../../src/locks/keeper-host.js";
import { KeeperLedger } from "../../src/locks/keeper-ledger.js";
import type { HostEnd, ToKeeperOfOwners } from "../../src/locks/keeper-protocol.js";
import { Locker } from "../../src/locks/locker.js";
import { ModelConnection, ModelServer, ModelThread, World } from "./lock-world.js";

const TTL_MS = 500;
const END_MS = 6_000;

const holder = fc.record({
  /** It shares the thread of the holder before it, and they may pass a lock on. */
  isNeighbour: fc.boolean(),
  process: fc.integer({ min: 0, max: 1 }),
  key: fc.constantFrom("a", "a", "b"),
  startsIn: fc.integer({ min: 0, max: 2_000 }),
  rounds: fc.integer({ min: 1, max: 3 }),
  ttlMs: fc.constantFrom(TTL_MS, TTL_MS, 900),
  maxHoldMs: fc.constantFrom(Infinity, Infinity, 700),
  waitMs: fc.constantFrom(1_500, 1_500, 300, 0),
  /** Its signal aborts then. */
  abortsIn: fc.option(fc.integer({ min: 0, max: 3_000 }), { freq: 4 }),
  /** It blocks its thread between two looks at the lock. */
  blocksMs: fc.array(fc.integer({ min: 0, max: 900 }), { minLength: 1, maxLength: 4 }),
});
const fault = fc.record({
  at: fc.integer({ min: 0, max: 5_000 }),
  on: fc.nat(5),
  what: fc.constantFrom(
    "cut",
    "cut keeper",
    "slow",
    "slow keeper",
    "block keeper",
    "block host",
    "end keeper",
    "end thread",
    "close thread",
  ),
  ms: fc.constantFrom(20, 120, 300, 700),
});
type Holder = typeof holder extends fc.Arbitrary<infer T> ? T : never;
type Fault = typeof fault extends fc.Arbitrary<infer T> ? T : never;

/** When a holder was sure of its lock: from its acquire to its last look that found it held. */
interface Held {
  readonly key: string;
  readonly fence: number;
  readonly from: number;
  until: number;
  loss?: string;
}

/** How long a keeper takes until it is connected. */
const START_MS = 30;

/** One process: the thread in which its keepers' host is, and one keeper after the other. */
class Process {
  readonly hostThread = new ModelThread();
  readonly host: KeeperHost;
  keeperThread = new ModelThread();
  keeperConnection: ModelConnection | undefined;
  #onEnd = (): void => {};
  readonly #world: World;

  constructor(world: World, server: ModelServer, ends: Map<number, { isCut: boolean }>) {
    this.#world = world;
    this.host = new KeeperHost({ config: {} as Config, logger: noopLogger }, (buffer, events) => {
      const thread = (this.keeperThread = new ModelThread());
      this.#onEnd = () => events.ended();
      const ledger = new KeeperLedger(buffer);
      const connection = (this.keeperConnection = new ModelConnection(world, server, thread, ends));
      const redis = connection as unknown as Handle;
      const queues = new LockQueues(redis, async () => false, noopLogger);
      let keeper: Keeper | undefined;
      const connectedAt = world.now + START_MS;
      world.at(connectedAt, thread, () => {
        keeper = new Keeper({ redis } as unknown as AnyClient, queues, ledger, noopLogger);
        world.in(0.1, this.hostThread, () => events.connected());
      });
      const post = (message: unknown): void => {
        world.at(Math.max(connectedAt, world.now + 0.1), thread, () => keeper!.receive(message as ToKeeperOfOwners));
      };
      return { post, close: async () => {} };
    });
  }

  /** The host hears of it when its loop turns. */
  endKeeper(): void {
    if (this.keeperThread.isDead) return;
    this.#world.end(this.keeperThread);
    this.keeperConnection = undefined;
    this.#world.in(0.1, this.hostThread, this.#onEnd);
  }
}

async function play(
  holders: readonly Holder[],
  faults: readonly Fault[],
  rate: number,
  seed: number,
): Promise<readonly Held[]> {
  const world = new World(seed);
  const server = new ModelServer(world, rate);
  const ends = new Map<number, { isCut: boolean }>();
  const all: Held[] = [];
  await world.run(END_MS, () => {
    const processes = [0, 1].map(() => new Process(world, server, ends));
    const threads: { thread: ModelThread; connection: ModelConnection; owner: Process; locker: Locker }[] = [];
    for (const one of holders) {
      const before = threads.at(-1);
      if (one.isNeighbour && before) {
        world.in(one.startsIn, before.thread, () => void hold(world, before.thread, before.locker, one, all));
        continue;
      }
      const thread = new ModelThread();
      const connection = new ModelConnection(world, server, thread, ends);
      const owner = processes[one.process]!;
      const attach = (): Promise<HostEnd> =>
        new Promise((resolve) => {
          world.in(0.1, owner.hostThread, async () => {
            const end = await owner.host.attach();
            world.in(0.1, thread, () => resolve(end));
          });
        });
      const locker = new Locker({
        thread: { attach },
        getRedis: async () => connection as never,
        redis: { keyPrefix: "" } as RedisConfig,
        holder: "holder",
        logger: noopLogger,
      });
      world.in(one.startsIn, thread, () => void hold(world, thread, locker, one, all));
      threads.push({ thread, connection, owner, locker });
    }
    for (const { at, on, what, ms } of faults) {
      world.in(at, new ModelThread(), () => {
        const { thread, connection, owner, locker } = threads[on % threads.length]!;
        if (what === "cut") connection.cut();
        if (what === "cut keeper") owner.keeperConnection?.cut();
        if (what === "slow") slow(world, connection, ms);
        if (what === "slow keeper" && owner.keeperConnection) slow(world, owner.keeperConnection, ms);
        if (what === "block keeper") owner.keeperThread.blockedUntil = world.now + ms;
        if (what === "block host") owner.hostThread.blockedUntil = world.now + ms;
        if (what === "end keeper") owner.endKeeper();
        if (what === "end thread") world.end(thread);
        // At a moment of the thread's own: right behind what its code does then.
        if (what === "close thread") world.in(0, thread, () => void sleepTurns(ms % 7).then(() => locker.close(100)));
      });
    }
  });
  check(all);
  for (const [key, { until }] of server.values) assert.ok(until < Infinity, `${key} has a ttl`);
  return all;
}

/** What costs a lock its next extension, and not the lock. */
async function playEndedKeepers(...schedule: Parameters<typeof play>): Promise<void> {
  const all = await play(...schedule);
  for (const { key, from, loss } of all) assert.ok(!loss || loss === "maxHold", `${key}, from ${from}: ${loss}`);
}

function slow(world: World, connection: ModelConnection, ms: number): void {
  connection.delayMs = ms;
  world.in(ms, new ModelThread(), () => (connection.delayMs = 1));
}

/** Never rejects. */
async function hold(world: World, thread: ModelThread, locker: Locker, one: Holder, all: Held[]): Promise<void> {
  const signal = abortedIn(world, thread, one.abortsIn);
  for (let round = 0; round < one.rounds; round++) {
    const { key, ttlMs, waitMs, maxHoldMs } = one;
    let lock: Lock;
    try {
      lock = await locker.acquire(key, { ttlMs, waitMs, maxHoldMs, ...(signal && { signal }) });
    } catch {
      continue;
    }
    const held: Held = { key, fence: lock.fence, from: world.now, until: world.now };
    all.push(held);
    try {
      for (const ms of one.blocksMs) {
        lock.assertHeld();
        held.until = world.now;
        thread.blockedUntil = world.now + ms;
        // A loop that computes looks at its lock while nothing else of the thread runs.
        for (const part of [0.3, 0.7]) {
          world.in(ms * part, new ModelThread(), () => {
            if (!thread.isDead && lock.isHeld) held.until = world.now;
          });
        }
        await world.sleep(ms);
      }
      lock.assertHeld();
      held.until = world.now;
      await lock.release();
    } catch (error) {
      held.loss = String((error as { reason?: string }).reason);
    }
  }
}

function abortedIn(world: World, thread: ModelThread, ms: number | null): AbortSignal | undefined {
  if (ms === null) return undefined;
  const controller = new AbortController();
  world.in(ms, thread, () => controller.abort(new Error("the caller is gone")));
  return controller.signal;
}

async function sleepTurns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await Promise.resolve();
}

function check(all: readonly Held[]): void {
  for (const key of ["a", "b"]) {
    const ofKey = all.filter((one) => one.key === key).toSorted((a, b) => a.from - b.from);
    for (const [i, one] of ofKey.entries()) {
      const next = ofKey[i + 1];
      if (!next) continue;
      assert.ok(one.until <= next.from, `${key}: held until ${one.until}, and by another from ${next.from}`);
      assert.ok(one.fence < next.fence, `${key}: fence ${next.fence} after ${one.fence}`);
    }
  }
}

const [seed, runs] = process.argv.slice(2).map(Number);
const holders = fc.array(holder, { minLength: 2, maxLength: 5 });
const rates = fc.constantFrom(1, 0.995, 1.005);
const seeds = fc.nat(2 ** 30);
// A third keeper that ends soon may be followed by a pause that is longer than what is left of a ttl.
const endedKeepers = fc.array(
  fault.map((one): Fault => ({ ...one, what: "end keeper" })),
  { maxLength: 2 },
);
const some = fc.asyncProperty(holders, endedKeepers, rates, seeds, playEndedKeepers);
await fc.assert(some, { numRuns: runs! / 5, seed: seed!, includeErrorInReport: true });
const all = fc.asyncProperty(holders, fc.array(fault, { maxLength: 6 }), rates, seeds, async (...schedule) => {
  await play(...schedule);
});
await fc.assert(all, { numRuns: runs!, seed: seed!, includeErrorInReport: true });
