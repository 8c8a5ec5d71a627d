/**
 * `npm run test:locks [-- SCHEDULES [SEED]]`: holders of locks with a ttl of 500 ms in the threads of two managers, on a real server,
 * while connections are killed, keepers ended, and threads ended and blocked. No two holders may be sure of a lock at the same
 * time, fences only rise, and in the end each key is gone or has a ttl.
 */
import assert from "node:assert/strict";
import type { Worker } from "node:worker_threads";
import { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/lock-tasks.js";
import { fixture } from "./manage.js";
import { startRedis } from "./redis-server.js";
import { silent } from "./silent.js";

const AT_ONCE = 10;
const TTL_MS = 500;

const [schedules = 500, seed = 28] = process.argv.slice(2).map(Number);
let state = seed;
const random = (below: number): number => {
  state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
  return Math.floor((state / 2 ** 31) * below);
};

const workers = new Set<Worker>();
process.on("worker", (worker) => {
  workers.add(worker);
  worker.once("exit", () => workers.delete(worker));
});

const server = await startRedis();
const managers = [0, 1].map(
  () =>
    new ConnectionManager<typeof Tasks>({
      env: {},
      tasks: fixture("lock-tasks"),
      redis: { port: server.port },
      threads: { count: 4, concurrency: 8 },
      logger: silent,
    }),
);

const counts = { held: 0, lost: 0, notAcquired: 0, killed: 0, ended: 0 };

async function play(number: number): Promise<void> {
  const key = `lock ${number}`;
  const holders = Array.from({ length: 2 + random(3) }, async () => {
    await new Promise((resolve) => setTimeout(resolve, random(300)));
    const blocksMs = Array.from({ length: 1 + random(3) }, () => random(900));
    const maxHoldMs = random(6) === 0 ? 400 : 300_000;
    const manager = managers[random(2)]!;
    return manager.run("holdFor", { key, blocksMs, ttlMs: TTL_MS, waitMs: 1_500, maxHoldMs }).catch(() => undefined);
  });
  const all = (await Promise.all(holders)).filter((one) => one !== undefined).toSorted((a, b) => a.from - b.from);
  counts.held += all.length;
  counts.notAcquired += holders.length - all.length;
  counts.lost += all.filter(({ lost }) => lost !== undefined).length;
  for (const [i, one] of all.entries()) {
    const next = all[i + 1];
    if (!next) continue;
    assert.ok(one.until <= next.from, `${key}: held until ${one.until}, and by another from ${next.from}`);
    assert.ok(one.fence < next.fence, `${key}: fence ${next.fence} after ${one.fence}`);
  }
  assert.notEqual(await server.admin.pttl(key), -1, `${key} has a ttl or is gone`);
}

let isOver = false;
async function disturb(): Promise<void> {
  while (!isOver) {
    await new Promise((resolve) => setTimeout(resolve, 200 + random(600)));
    if (random(4) > 0) {
      const all = await server.clients();
      const victim = all[random(all.length)];
      if (victim) await server.admin.call("CLIENT", "KILL", "ID", victim.id).catch(() => {});
      counts.killed++;
    } else {
      const all = [...workers];
      await all[random(all.length)]?.terminate();
      counts.ended++;
    }
  }
}

const disturbing = disturb();
let next = 0;
const playOn = async (): Promise<void> => {
  while (next < schedules) await play(next++);
};
try {
  await Promise.all(Array.from({ length: AT_ONCE }, playOn));
  console.log(`${schedules} schedules, seed ${seed}: ${JSON.stringify(counts)}`);
} finally {
  isOver = true;
  await disturbing;
  await Promise.all(managers.map((manager) => manager.shutdown({ drainMs: 5_000 })));
  await server.stop();
}
