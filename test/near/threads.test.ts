/** `node dist/test/near/threads.test.js [--takes N]`: threads that fill the log of a near cache, and threads that read it meanwhile. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test, type TestContext } from "node:test";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { WORDS_PER_SEGMENT } from "../../src/near/near-buffers.js";
import { closeSegments, NearLog } from "../../src/near/near-log.js";
import { NearMemory } from "../../src/near/near-memory.js";
import { keyAt, type LogThread, type Read, valueOf } from "../fixtures/near-log-threads.js";
import { eventually } from "../support/gate.js";
import { fixture } from "../support/manage.js";
import { lookUp, type NearSizes, placeOf, smallNear, ticketOf } from "../support/near-parts.js";
import { seeded } from "../support/seeded.js";

const { values: args } = parseArgs({ options: { takes: { type: "string" } } });
/** So many times a segment is taken again. */
const takes = Number(args.takes ?? 20_000);
const LIMIT_MS = 60_000 + takes * 2;
const LIMIT = { timeout: LIMIT_MS };

type Shared = Omit<LogThread, "owner" | "role">;

function words(length: number): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(length * Int32Array.BYTES_PER_ELEMENT));
}

function share(keys: number, sizes: NearSizes): Shared {
  return { buffers: smallNear(sizes), keys, written: words(keys), told: words(keys), end: words(1) };
}

function start(t: TestContext, shared: Shared, role: LogThread["role"], owner: number): Worker {
  const worker = new Worker(fixture("near-log-threads"), {
    workerData: { ...shared, role, owner } satisfies LogThread,
  });
  t.after(() => worker.terminate().then(() => undefined));
  return worker;
}

function timesTaken({ segmentWords }: NearMemory): number {
  return sumOf([...segmentWords].filter((_, word) => word % WORDS_PER_SEGMENT === 1));
}

const sumOf = (numbers: readonly number[]): number => numbers.reduce((sum, n) => sum + n, 0);

test(
  "values that others read while their segments are taken again are whole, of their key, and not outdated",
  LIMIT,
  async (t) => {
    // Two segments for each of the two threads that fill: each is taken again after about 60 values.
    const shared = share(200, { segments: 4, segmentBytes: 32 * 1_024, buckets: 256 });
    const fillers = [start(t, shared, "write", 1), start(t, shared, "fill", 2)];
    const readers = [start(t, shared, "read", 3), start(t, shared, "read", 4)];
    const answers = Promise.all(
      [...readers, ...fillers].map(async (worker) => ((await once(worker, "message")) as [Read | undefined])[0]),
    );
    const memory = new NearMemory(shared.buffers);
    await eventually(() => timesTaken(memory) > takes, LIMIT_MS - 10_000, `segments were taken ${takes} times`);
    Atomics.store(shared.end, 0, 1);
    const reads = (await answers).filter((answer) => answer !== undefined);
    assert.equal(reads.length, 2);
    const hits = sumOf(reads.map((one) => one.hits));
    const overtaken = sumOf(reads.map((one) => one.overtaken));
    const all = sumOf(reads.map((one) => one.reads));
    const writes = sumOf([...shared.told]);
    t.diagnostic(
      `${all} reads, ${hits} hits, ${overtaken} overtaken; ${writes} writes, ${timesTaken(memory)} segments taken`,
    );
    assert.deepEqual(
      reads.flatMap(({ wrong }) => wrong),
      [],
    );
    assert.ok(hits > takes);
    assert.ok(overtaken > 0, "a segment was taken again while a reader was in it");
  },
);

test("what a thread was filling when it was ended is whole, and is filled by others", LIMIT, async (t) => {
  const shared = share(50, { segments: 4, segmentBytes: 32 * 1_024, buckets: 64 });
  const memory = new NearMemory(shared.buffers);
  const random = seeded(3);
  let found = 0;
  for (let owner = 1; owner <= 12; owner++) {
    const worker = start(t, shared, "fill", owner);
    await once(worker, "online");
    const before = timesTaken(memory);
    const some = 10 + Math.floor(30 * random());
    await eventually(() => timesTaken(memory) - before > some, 20_000, "the thread fills");
    await worker.terminate(); // in the middle of whatever it does
    closeSegments(memory, owner);
    for (let segment = 0; segment < memory.segments; segment++)
      assert.ok(memory.segmentWords[segment * WORDS_PER_SEGMENT]! <= 0);
    const log = new NearLog(memory, shared.buffers, 1_000 + owner);
    for (let i = 0; i < shared.keys; i++) {
      const value = lookUp(memory, log, placeOf(memory, keyAt(i)), 0);
      if (!value) continue;
      found++;
      assert.deepEqual(value.bytes, valueOf(keyAt(i), 0));
    }
    // All segments can be taken by the next one.
    const place = placeOf(memory, "next");
    for (let i = 0; i < 200; i++) assert.ok(log.append(place, ticketOf(memory, place), 1_000, Buffer.alloc(1_000)));
    log.close();
  }
  t.diagnostic(`${found} values of ended threads`);
  assert.ok(found > 0);
});
