import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import type { HolderArgument } from "../fixtures/job-lock-holder.js";
import type { RivalArgument } from "../fixtures/job-lock-rival.js";
import type { Logger, ManagerOptions, ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/job-lock-tasks.js";
import { eventually } from "../support/gate.js";
import { TestQueue, work } from "../support/jobs.js";
import { fixture, manage } from "../support/manage.js";
import { Program } from "../support/program.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

/** `JOBS=200 node --test dist/test/adapters/bullmq-locks.test.js` runs as many jobs that block their threads, and a quarter that block main. */
const JOBS = Number(process.env["JOBS"] ?? 8);
const LOCK_MS = 500;
const BLOCK_MS = 2 * LOCK_MS;
const THREADS = 4;
const START_MS = 30_000;

const LIMIT = { timeout: 60_000 + 2 * JOBS * BLOCK_MS };

let server: RedisServer;
let other: RedisServer;
before(async () => {
  [server, other] = await Promise.all([startRedis(), startRedis()]);
});
after(() => Promise.all([server.stop(), other.stop()]));

/** One in five blocks the main thread. */
const NAMES = Array.from({ length: JOBS + JOBS / 4 }, (_job, i) => (i % 5 === 4 ? "blockMain" : "blockThread"));

interface Fate {
  readonly stalled: number;
  readonly ranTwice: number;
  /** How often the main thread was blocked. */
  readonly blocked: number;
  readonly warnings: number;
}

/** What becomes of jobs that block, while another process looks for stalled jobs and takes them. */
async function besideRival(t: TestContext, kind: HolderArgument["kind"], names: readonly string[]): Promise<Fate> {
  await using queue = new TestQueue(server, `rivals of ${kind} for ${names.length}`);
  const threads = Math.min(THREADS, names.length / 2);
  const common = { port: server.port, queue: queue.name, lockDuration: LOCK_MS };
  const rival = new Program(t, "job-lock-rival", { ...common, stalledInterval: 100 } satisfies RivalArgument);
  const holder = new Program(t, "job-lock-holder", { ...common, kind, threads } satisfies HolderArgument);
  await Promise.all([rival.hears("ready", START_MS), holder.hears("ready", START_MS)]);
  await queue.addBulk(names.map((name) => ({ name, data: BLOCK_MS, opts: { attempts: 3 } })));
  const over = async () => {
    const jobs = await queue.getJobs(["completed", "failed"]);
    return jobs.length === names.length && jobs;
  };
  const jobs = await eventually(over, LIMIT.timeout - START_MS, "all jobs have ended").catch((error: unknown) => {
    throw new Error(holder.transcript, { cause: error });
  });
  return {
    stalled: rival.all("stalled").length,
    ranTwice: jobs.filter(({ attemptsStarted }) => attemptsStarted > 1).length,
    blocked: holder.all("blocked").length,
    warnings: holder.all("warning").length,
  };
}

test(
  "no job runs twice that blocks its thread, or the main thread, for longer than its lock lasts",
  LIMIT,
  async (t) => {
    assert.deepEqual(await besideRival(t, "redthread", NAMES), {
      stalled: 0,
      ranTwice: 0,
      blocked: JOBS / 4,
      warnings: 0,
    });
  },
);

test(
  "a job that the main thread has fetched, and is blocked before it reads which one, keeps its lock",
  LIMIT,
  async (t) => {
    const names = ["blockMainAfter", "blockThread"];
    assert.deepEqual(await besideRival(t, "redthread", names), { stalled: 0, ranTwice: 0, blocked: 1, warnings: 0 });
  },
);

test("the contrast: BullMQ alone loses locks when the main thread is blocked", LIMIT, async (t) => {
  const { stalled, ranTwice } = await besideRival(t, "bullmq", NAMES);
  t.diagnostic(`BullMQ alone: ${stalled} stalled, ${ranTwice} ran twice`);
  assert.ok(stalled > 0);
});

/** BullMQ's own renewal comes too late to tell anything. */
const KEEPER_ALONE = { lockDuration: LOCK_MS, lockRenewTime: 600_000 };

interface Managed {
  readonly manager: ConnectionManager<typeof Tasks>;
  readonly warnings: string[];
}

function managed(t: TestContext, overrides: Partial<ManagerOptions> = {}, on = server): Managed {
  const warnings: string[] = [];
  const logger: Logger = { debug() {}, info() {}, warn: (text) => void warnings.push(text), error() {} };
  const tasks = fixture("job-lock-tasks");
  return { manager: manage<typeof Tasks>(t, on, { tasks, threads: { count: 1 }, logger, ...overrides }), warnings };
}

test("the keeper alone keeps a job's lock, and its word that the lock is lost aborts the task", LIMIT, async (t) => {
  const { manager, warnings } = managed(t, { redis: { keyPrefix: "ours:" } });
  await using queue = new TestQueue(server, "kept");
  await using jobs = await work(manager, server, queue, KEEPER_ALONE);
  const kept = await queue.reaches(await queue.add("wait", BLOCK_MS), "completed");
  assert.equal(kept.returnvalue, "over");
  const robbed = await queue.add("wait", 600_000);
  await queue.reaches(robbed, "active");
  await new Promise((resolve) => setTimeout(resolve, BLOCK_MS));
  const cancelled = new Promise((resolve) => jobs.worker.once("error", resolve)); // it cannot complete the job
  await server.admin.set(`bull:kept:${robbed.id}:lock`, "another worker's");
  assert.match(String(await cancelled), /lock/i);
  assert.deepEqual(warnings, []);
});

test("a job that its task has moved is not taken for lost", LIMIT, async (t) => {
  const { manager } = managed(t);
  await using queue = new TestQueue(server, "moved");
  await using _ = await work(manager, server, queue, KEEPER_ALONE);
  const job = await queue.reaches(await queue.add("moveAndWait", BLOCK_MS), "completed");
  assert.deepEqual([job.returnvalue, job.attemptsMade], [false, 1]);
});

test(
  "if BullMQ has another Redis than the manager, it renews its locks alone, and the log says so once",
  LIMIT,
  async (t) => {
    const { manager, warnings } = managed(t, {}, other);
    await using queue = new TestQueue(server, "elsewhere");
    await using _ = await work(manager, server, queue, { lockDuration: 10 * LOCK_MS });
    const added = await queue.addBulk([1, 2, 3].map(() => ({ name: "wait", data: BLOCK_MS })));
    for (const job of added) {
      const { returnvalue, attemptsStarted } = await queue.reaches(job, "completed");
      assert.deepEqual([returnvalue, attemptsStarted], ["over", 1]);
    }
    assert.equal(warnings.filter((text) => text.includes("renewed by BullMQ alone")).length, 1);
  },
);

test("a manager without the right to job locks keeps its own locks", LIMIT, async (t) => {
  await server.admin.call("ACL", "SETUSER", "narrow", "reset", "on", ">secret", "~own:*", "~{own:*", "&*", "+@all");
  const { manager, warnings } = managed(t, { redis: { username: "narrow", password: "secret" } });
  await using queue = new TestQueue(server, "forbidden");
  await using _ = await work(manager, server, queue, { lockDuration: 2 * BLOCK_MS });
  const lock = await manager.acquireLock("own:lock", { ttlMs: LOCK_MS });
  const job = await queue.reaches(await queue.add("wait", 5 * BLOCK_MS), "completed");
  assert.deepEqual([job.returnvalue, lock.isHeld], ["over", true]);
  await lock.release();
  assert.equal(warnings.filter((text) => text.includes("renewed by BullMQ alone")).length, 1);
});
