import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Worker } from "node:worker_threads";
import { ConnectGate } from "../../src/common/connect-gate.js";
import { Permits } from "../../src/common/permits.js";
import type * as Tasks from "../fixtures/tasks.js";
import { eventually } from "../support/gate.js";
import { configFor } from "../support/fast-config.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

function makePermits(count: number, slots = 3): Permits[] {
  const cells = new Int32Array(new SharedArrayBuffer(4 * Permits.cells(slots, count)));
  return Array.from({ length: slots }, (_, slot) => new Permits(cells, { slots, count, slot }));
}

test("permits go to whoever waits longest, whatever its thread, and a main one before a spare one", async () => {
  const [a, b, c] = makePermits(2) as [Permits, Permits, Permits];
  const first = await a.acquire("main");
  const second = await a.acquire("main");
  const order: string[] = [];
  const wait = (permits: Permits, kind: "main" | "spare", name: string) =>
    permits.acquire(kind).then((release) => (order.push(name), release));
  const waiting = [wait(b, "spare", "spare b"), wait(c, "main", "main c"), wait(b, "main", "main b")];
  first();
  const releaseC = await waiting[1]!;
  second();
  const releaseB = await waiting[2]!;
  releaseC();
  releaseB();
  (await waiting[0]!)();
  assert.deepEqual(order, ["main c", "main b", "spare b"]);
  assert.equal(a.held, 0);
});

test("the last free permit is not for a spare connection", async () => {
  const [a] = makePermits(2) as [Permits];
  const spare = await a.acquire("spare");
  const stop = new AbortController();
  const refused = a.acquire("spare", stop.signal);
  const main = await a.acquire("main");
  stop.abort(new Error("enough"));
  await assert.rejects(refused, /enough/);
  assert.equal(a.isWanted, false);
  spare();
  spare();
  main();
  assert.equal(a.held, 0);
});

test("what a dead thread held and waited for is swept", async () => {
  const [a, b] = makePermits(1) as [Permits, Permits];
  await a.acquire("main");
  const waiting = b.acquire("main");
  a.sweep(0);
  await waiting;
  b.sweep(1);
  assert.equal(a.held, 0);
});

test("who waits in a thread that is blocked is passed by, and keeps its place for when it looks again", async (t) => {
  const cells = new Int32Array(new SharedArrayBuffer(4 * Permits.cells(2, 1)));
  const other = new Permits(cells, { slots: 2, count: 1, slot: 1 });
  const release = await other.acquire("main");
  const blocked = new Int32Array(new SharedArrayBuffer(8));
  const url = new URL("../../src/common/permits.js", import.meta.url).href;
  const source = `
    setInterval(() => {}, 1_000); // what it waits for keeps no thread alive
    const { workerData: { url, cells, blocked } } = require("node:worker_threads");
    import(url).then(async ({ Permits }) => {
      const waiting = new Permits(cells, { slots: 2, count: 1, slot: 0 }).acquire("main");
      Atomics.store(blocked, 0, 1);
      Atomics.wait(blocked, 1, 0);
      const release = await waiting;
      Atomics.store(blocked, 0, 2);
      release();
    });
  `;
  const worker = new Worker(source, { eval: true, workerData: { url, cells, blocked } });
  t.after(() => worker.terminate().then(() => undefined));
  await eventually(() => Atomics.load(blocked, 0) === 1, 15_000);
  release();
  const again = await eventually(() => other.acquire("main"), 10_000, "the one permit, although another came first");
  assert.equal(other.isWanted, false);
  Atomics.store(blocked, 1, 1);
  Atomics.notify(blocked, 1);
  await eventually(() => other.isWanted, 10_000, "it looks again");
  const last = other.acquire("main");
  again();
  (await eventually(() => last, 10_000))();
  assert.equal(Atomics.load(blocked, 0), 2, "the one that came first was served first");
  assert.equal(other.held, 0);
});

test("a budget that cannot hold the threads is refused by name", () => {
  assert.throws(
    () => configFor(server, { threads: { count: 4 }, connections: { max: 5 } }),
    (error: Error) => {
      assert.ok(code("CONFIG_INVALID")(error));
      assert.match(error.message, /connections\.max: must be at least 6/);
      return true;
    },
  );
  const config = configFor(server, { threads: { count: 4 }, connections: { max: 6 } });
  assert.ok(ConnectGate.buffer(config).byteLength > 0);
});

test("ready() warns of a server whose maxclients cannot hold the process", async (t) => {
  const small = await startRedis({ args: ["--maxclients", "20"] });
  const warnings: [string, unknown][] = [];
  const warn = (message: string, fields?: unknown): number => warnings.push([message, fields]);
  const manager = manage<typeof Tasks>(t, small, {
    tasks: fixture("tasks"),
    threads: { count: 4 },
    logger: { debug() {}, info() {}, error() {}, warn },
  });
  t.after(() => small.stop());
  await manager.ready();
  assert.equal(warnings.length, 1);
  assert.match(warnings[0]![0], /maxclients/);
  assert.deepEqual(warnings[0]![1], { maxclients: 20, others: 0, needed: 23 });
});
