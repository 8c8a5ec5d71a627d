import assert from "node:assert/strict";
import { AsyncLocalStorage } from "node:async_hooks";
import { tracingChannel } from "node:diagnostics_channel";
import { after, before, test, type TestContext } from "node:test";
import type { ConnectionManager, Logger, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/isolation-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { silent } from "../support/silent.js";

// Promise 8: two tasks never share a value, however they were batched. Everything here has one thread, so that what is
// asked for at once is sent at once.

const DEADLINE = { timeout: 60_000 };
const WAIT_MS = 30_000;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

async function managed(
  t: TestContext,
  options: Partial<ManagerOptions> = {},
): Promise<ConnectionManager<typeof Tasks>> {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("isolation-tasks"),
    ...options,
    threads: { count: 1, ...options.threads },
  });
  await manager.ready();
  // Tasks of this name are known to be short now: from here on many of them share a message.
  await Promise.all(Array.from({ length: 64 }, () => manager.run("echo", 0)));
  return manager;
}

// The first test of this process that asks for a client, which loads the code for it.
test("redthread's own commands run in no caller's AsyncLocalStorage, also at the first call", DEADLINE, async (t) => {
  const store = new AsyncLocalStorage<string>();
  const options = { tasks: fixture("isolation-tasks"), threads: { count: 1 }, redis: { idleCheckMs: 0 } };
  const manager = manage(t, server, options);
  const heard: [string, string | undefined][] = [];
  const { start } = tracingChannel<string, { command: string }>("ioredis:command");
  const hear = (message: unknown): void =>
    void heard.push([(message as { command: string }).command.toLowerCase(), store.getStore()]);
  start.subscribe(hear);
  t.after(() => start.unsubscribe(hear));
  await store.run("first", async () => (await manager.getRedis()).echo("asked"));
  await store.run("second", () => manager.getRedis());
  assert.deepEqual(
    heard.filter(([, value]) => value !== undefined),
    [["echo", "first"]],
  );
  for (const name of ["hello", "ping"])
    assert.ok(
      heard.some(([command]) => command === name),
      name,
    );
});

/** So many at once. */
function atOnce<T>(count: number, run: (i: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, i) => run(i)));
}

function same<T>(count: number, value: T): T[] {
  return Array.from({ length: count }, () => value);
}

/** Of what `moveReply` gives. */
function textOf(moved: unknown): string {
  if (moved instanceof Map) return Buffer.from(moved.get("reply") as Uint8Array).toString();
  if (ArrayBuffer.isView(moved)) return Buffer.from(moved as Uint8Array).toString();
  const { buffer, byteOffset, length } = moved as { buffer: ArrayBuffer; byteOffset: number; length: number };
  return Buffer.from(buffer, byteOffset, length).toString();
}

async function collected<T>(results: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const result of results) all.push(result);
  return all;
}

function isAbort(error: unknown): boolean {
  assert.ok(error instanceof Error);
  assert.deepEqual([error.name, error.message], ["AbortError", "This operation was aborted"]);
  return true;
}

test("tasks that get the same object each have a copy of their own", DEADLINE, async (t) => {
  const manager = await managed(t);
  for (let round = 0; round < 5; round++) {
    const config = { left: 10, used: [] as number[] };
    const results = await atOnce(6, (id) => manager.run("take", { config, id }));
    assert.deepEqual(results, same(6, [9, 1]));
    assert.deepEqual(config, { left: 10, used: [] });
  }
});

test("tasks with the same context each have a copy of it, also in map()", DEADLINE, async (t) => {
  const manager = await managed(t);
  const context = { left: 10, used: [] };
  assert.deepEqual(await atOnce(6, () => manager.run("takeContext", undefined, { context })), Array(6).fill(1));
  const config = { left: 10, used: [] };
  const inputs = Array.from({ length: 6 }, (_, id) => ({ config, id }));
  const mapped = await collected(manager.map("take", inputs));
  assert.deepEqual(mapped, same(6, [9, 1]));
});

test("callers of tasks that return the same object each have a copy of their own", DEADLINE, async (t) => {
  const manager = await managed(t);
  for (const name of ["cachedSettings", "cachedInMap"] as const) {
    await manager.run(name);
    const results = await atOnce(4, () => manager.run(name) as Promise<unknown>);
    assert.equal(new Set(results).size, 4, name);
  }
  const [first, ...others] = await atOnce(4, () => manager.run("cachedSettings"));
  first!.limits.rows = -1;
  first!.names.push("c");
  for (const other of others) assert.deepEqual(other, { limits: { rows: 10 }, names: ["a", "b"] });
});

test("reports of the same object, and errors with the same field, are not shared either", DEADLINE, async (t) => {
  const manager = await managed(t);
  const reports: object[] = [];
  await manager.run("reportShared", 3, { onReport: (value) => reports.push(value as object) });
  assert.equal(new Set(reports).size, 3);
  const failures = await atOnce(4, () => manager.run("throwShared").catch((error: unknown) => error));
  const [first, ...others] = failures as { details: { seenBy: string[] } }[];
  first!.details.seenBy.push("the first caller");
  for (const other of others) assert.deepEqual(other.details.seenBy, []);
});

test("many tasks move back parts of one array and small Buffers", DEADLINE, async (t) => {
  const manager = await managed(t);
  const image = Uint8Array.from({ length: 8 * 100 }, (_, i) => i % 256);
  const tiles = await atOnce(8, (i) => manager.run("invert", image.subarray(100 * i, 100 * i + 100)));
  assert.deepEqual(Buffer.concat(tiles), Buffer.from(image.map((byte) => byte ^ 255)));
  const small = await atOnce(8, (i) => manager.run("invert", Buffer.from(`tile ${i}`) as Uint8Array<ArrayBuffer>));
  assert.deepEqual(
    small.map((tile) => Buffer.from(tile.map((byte) => byte ^ 255)).toString()),
    Array.from({ length: 8 }, (_, i) => `tile ${i}`),
  );
  const large = await atOnce(3, (i) => manager.run("invert", new Uint8Array(100_000).fill(i).subarray(1)));
  for (const [i, { length, [0]: byte }] of large.entries()) assert.deepEqual([length, byte], [99_999, i ^ 255]);
});

test("a task that moves a reply's buffer takes no other value's bytes", DEADLINE, async (t) => {
  const manager = await managed(t);
  const values = ["1", "2"].map((digit) => digit.repeat(3_000));
  await server.admin.mset("v1", values[0]!, "v2", values[1]!);
  for (let round = 0; round < 20; round++) {
    for (const as of ["view", "map", "buffer"] as const) {
      await server.admin.del("copy");
      const [moved, , text] = await Promise.all([
        manager.run("moveReply", { key: "v1", as }),
        manager.run("copyLater", { from: "v2", to: "copy" }),
        manager.run("read", "v2"),
      ]);
      assert.equal(textOf(moved), values[0]);
      assert.equal(await server.admin.get("copy"), values[1]);
      assert.equal(text, values[1]);
    }
  }
});

test("a transferList on the main thread takes no other value's bytes", DEADLINE, async (t) => {
  const manager = await managed(t);
  await server.admin.set("v1", "1".repeat(3_000));
  const redis = await manager.getRedis();
  for (let round = 0; round < 20; round++) {
    const [reply, other] = (await Promise.all([redis.getBuffer("v1"), redis.getBuffer("v1")])) as Buffer<ArrayBuffer>[];
    const inverted = await manager.run("invert", reply!, { transferList: [reply!.buffer] });
    assert.equal(inverted.length, 3_000);
    assert.equal(other!.toString(), "1".repeat(3_000));
    assert.equal(reply!.toString(), "1".repeat(3_000)); // it has only a part of its buffer, so it is copied
  }
  const image = new Uint8Array(3_000);
  await manager.run("invert", image.subarray(0, 100), { transferList: [image.buffer] });
  assert.equal(image.length, 3_000); // the rest of its buffer belongs to other values
  const whole = new Uint8Array(3_000);
  await manager.run("invert", whole, { transferList: [whole.buffer] });
  assert.equal(whole.length, 0); // moved
  const halves = new Uint8Array(3_000);
  const views = [halves.subarray(0, 1_000), halves.subarray(1_000)];
  const back = (await manager.run("echo", views, { transferList: [halves.buffer] })) as Uint8Array[];
  assert.equal(halves.length, 0); // together they have all of the buffer
  assert.deepEqual(
    back.map(({ length }) => length),
    [1_000, 2_000],
  );
  const again = manager.run("invert", whole, { transferList: [whole.buffer] });
  await assert.rejects(again, (error: Error & { path?: string }) => {
    assert.ok(code("NOT_CLONEABLE")(error));
    return error.path === "input"; // it was moved before
  });
});

test("a Buffer is a Buffer on both sides, and its buffer holds only its own bytes", DEADLINE, async (t) => {
  const manager = await managed(t);
  const seen = await manager.run("describeBytes", { key: "bytes", bytes: Buffer.from("AB") });
  assert.deepEqual(seen, { isBuffer: true, hex: "4142", owns: 2 });
  assert.equal(await server.admin.get("bytes"), "AB");
  for (const bytes of [1, 12, 100, 1_024, 1_025, 5_000, 50_000, 500_000]) {
    const given = Buffer.allocUnsafe(bytes + 1)
      .subarray(1)
      .fill("x"); // of the pool, if it is small
    const results = (await atOnce(3, () => manager.run("echo", given))) as Buffer[];
    for (const result of results) {
      assert.ok(Buffer.isBuffer(result), `${bytes} bytes`);
      assert.deepEqual([result.byteOffset, result.buffer.byteLength, result.equals(given)], [0, bytes, true]);
    }
    assert.equal(await manager.run("isBuffer", given), true);
  }
  const window = new Float64Array(new ArrayBuffer(80_000), 8, 1_000).fill(0.5);
  const part = (await manager.run("echo", { window })) as { window: Float64Array };
  assert.deepEqual([part.window, part.window.byteOffset, part.window.buffer.byteLength], [window, 0, 8_000]);
  const many = Array.from({ length: 300 }, (_, i) => Buffer.from(`${i}`));
  const back = (await manager.run("echo", { rows: many })) as { rows: Buffer[] };
  assert.deepEqual(back.rows, many);
  assert.ok(back.rows.every((row) => Buffer.isBuffer(row) && row.buffer.byteLength === row.length));
  const reports: unknown[] = [];
  await manager.run("reportBytes", undefined, { onReport: (value) => reports.push(value) });
  assert.deepEqual(reports, [{ bytes: Buffer.from("ab") }]);
  await assert.rejects(manager.run("throwWithBytes"), { payload: Buffer.from("bytes") });
});

test("kept results take as much memory as their bytes", DEADLINE, async (t) => {
  const manager = await managed(t);
  const kept = await atOnce(2_000, (n) => manager.run("smallBuffer", n));
  const buffers = new Map(kept.map(({ buffer }) => [buffer, buffer.byteLength]));
  assert.equal(buffers.size, kept.length);
  const total = [...buffers.values()].reduce((sum, bytes) => sum + bytes, 0);
  assert.equal(
    total,
    kept.reduce((sum, { length }) => sum + length, 0),
  );
});

test("a store that a task enters in an AsyncLocalStorage is not there for the next task", DEADLINE, async (t) => {
  const manager = await managed(t);
  const first = await manager.run("enter", "one");
  assert.deepEqual(first, [undefined, "one"]);
  const together = await atOnce(8, (i) => manager.run("enter", `together ${i}`));
  assert.deepEqual(
    together,
    Array.from({ length: 8 }, (_, i) => [undefined, `together ${i}`]),
  );
  const stop = new AbortController();
  const aborted = manager.run("enterOnAbort", "listening", { signal: stop.signal });
  await eventually(async () => (await server.admin.get("listening")) === "listening", WAIT_MS);
  stop.abort();
  await assert.rejects(aborted, code("TASK_ABORTED"));
  assert.deepEqual(await atOnce(4, () => manager.run("enter", "last")), same(4, [undefined, "last"]));
});

test("the reason of an AbortSignal arrives as an error", DEADLINE, async (t) => {
  const manager = await managed(t);
  await assert.rejects(manager.run("throwReason", "itself"), isAbort);
  await assert.rejects(manager.run("throwReason", "as cause"), ({ cause }: Error) => isAbort(cause));
});

test("an error names the task and path of the one result that cannot be cloned", DEADLINE, async (t) => {
  const manager = await managed(t);
  const runs = await Promise.allSettled([
    ...Array.from({ length: 8 }, (_, i) => manager.run("echo", i)),
    manager.run("uncloneable"),
    ...Array.from({ length: 8 }, (_, i) => manager.run("echo", i)),
  ]);
  const failed = runs.filter(({ status }) => status === "rejected") as PromiseRejectedResult[];
  assert.equal(failed.length, 1);
  assert.ok(code("NOT_CLONEABLE")(failed[0]!.reason));
  assert.match((failed[0]!.reason as Error).message, /task uncloneable .*result\.rows\[0\]\.onDone/);
});

test("transfer() is refused unless it is around the whole result", DEADLINE, async (t) => {
  const manager = await managed(t);
  await assert.rejects(manager.run("transferWithin"), (error: Error & { path?: string }) => {
    assert.ok(code("NOT_CLONEABLE")(error));
    return error.path === "result.inner.mustBeTheWholeResult";
  });
});

test("a large result that cannot be cloned is refused at once, and its thread lives on", DEADLINE, async (t) => {
  const manager = await managed(t);
  const { threads } = manager.stats();
  const run = manager.run("uncloneableAtTheEnd", 2_000, { timeoutMs: 20_000 });
  const failure = (await run.catch((error: unknown) => error)) as Error;
  assert.ok(code("NOT_CLONEABLE")(failure), String(failure));
  assert.match(failure.message, /result(\.next)+ … (\.next)+\.onDone cannot be cloned/);
  assert.equal(manager.stats().threads[0]!.threadId, threads[0]!.threadId);
});

test("a value that is nested too deeply is NOT_CLONEABLE, or arrives", DEADLINE, async (t) => {
  const manager = await managed(t);
  for (const depth of [100, 1_000, 3_000, 6_000, 20_000]) {
    let input: unknown = [];
    for (let i = 0; i < depth; i++) input = [input];
    for (const run of [manager.run("depthOf", input), manager.run("deep", depth)]) {
      const outcome = await Promise.race([
        run.then(
          () => "arrived",
          (error: unknown) => (code("NOT_CLONEABLE")(error) ? "refused" : String(error)),
        ),
        new Promise((resolve) => setTimeout(resolve, 20_000, "nothing").unref()),
      ]);
      assert.ok(outcome === "arrived" || outcome === "refused", `${depth}: ${String(outcome)}`);
    }
  }
  assert.equal(manager.stats().threads[0]!.running, 0);
});

test("a line of a task's log has the same fields as on the main thread", DEADLINE, async (t) => {
  const lines: [string, object | undefined][] = [];
  const logger: Logger = { ...silent, info: (line, fields) => void lines.push([line, fields]) };
  const manager = await managed(t, { logger });
  await manager.run("logMuch", undefined, { context: { bytes: Buffer.alloc(2_000_000), requestId: "r1" } });
  const [, fields] = await eventually(() => lines.find(([line]) => line === "uploaded") ?? false, WAIT_MS);
  const { upload, url, nested, context } = fields as Record<string, Record<string, unknown>>;
  assert.deepEqual([upload, url], ["2000000 bytes", "[object URL]"]);
  assert.deepEqual(context, { bytes: "2000000 bytes", requestId: "r1" });
  assert.equal(nested!["password"], "[hidden]");
  assert.ok((nested!["rows"] as unknown[]).length <= 1_001);
  assert.doesNotMatch(JSON.stringify(fields), /hunter2/);
});

test("a listener that rejects is logged and gives its task up, as a listener that throws", DEADLINE, async (t) => {
  const lines: string[] = [];
  const logger: Logger = { ...silent, error: (line) => void lines.push(line) };
  const manager = await managed(t, { logger });
  const bug = new Error("a bug in the listener");
  const stop = await manager.subscribe("news", async () => {
    throw bug;
  });
  const onReport = async (): Promise<never> => {
    throw bug;
  };
  await manager.run("reportBytes", undefined, { onReport }).catch((error: unknown) => assert.equal(error, bug));
  await (await manager.getRedis()).publish("news", "something");
  await eventually(() => lines.includes("an onReport listener rejected"), WAIT_MS);
  await eventually(() => lines.includes("a subscriber threw"), WAIT_MS);
  await stop();
});

test("listeners of a task run in its caller's AsyncLocalStorage", DEADLINE, async (t) => {
  const store = new AsyncLocalStorage<string>();
  const heard: [string, string | undefined][] = [];
  const logger: Logger = { ...silent, info: (line) => void heard.push([`log of ${line}`, store.getStore()]) };
  const manager = await managed(t, { logger });
  const onReport = (): void => void heard.push(["report", store.getStore()]);
  const stop = await store.run("of the subscriber", () =>
    manager.subscribe("news", (message) => void heard.push([message, store.getStore()])),
  );
  await store.run("of the first", () => manager.run("reportShared", 1, { onReport }));
  await store.run("of the second", async () => {
    await Promise.all([manager.run("logLine", "one"), manager.run("logLine", "two")]);
    for await (const _ of manager.map("logLine", ["three", "four"], { concurrency: 1 }));
  });
  await (await manager.getRedis()).publish("news", "message");
  await eventually(() => heard.length === 6, WAIT_MS, "six of them");
  await stop();
  const [report, one, two, three, four, message] = heard;
  assert.deepEqual(report, ["report", "of the first"]);
  assert.deepEqual([one, two, three, four].map(([what] = ["", ""]) => what).toSorted(), [
    "log of four",
    "log of one",
    "log of three",
    "log of two",
  ]);
  for (const line of [one, two, three, four]) assert.equal(line![1], "of the second", line![0]);
  assert.deepEqual(message, ["message", "of the subscriber"]);
});

test(
  "a small plain input crosses as it was at the call, a large input as it is when it is sent",
  DEADLINE,
  async (t) => {
    const manager = await managed(t);
    const row = { id: 0, tags: ["a"] };
    function* rows(): Iterable<typeof row> {
      for (row.id = 1; row.id <= 5; row.id++) yield row;
    }
    const echoed = (await collected(manager.map("echo", rows()))) as (typeof row)[];
    assert.deepEqual(
      echoed.map(({ id }) => id),
      [1, 2, 3, 4, 5],
    );
    const input = { id: 1, bytes: Buffer.from("before") };
    const running = manager.run("echo", input);
    input.id = 2;
    input.bytes.fill("x");
    assert.deepEqual(await running, { id: 1, bytes: Buffer.from("before") });
    const large = { id: 1, rows: Array.from({ length: 1_000 }, () => ({})) };
    const runningLarge = manager.run("echo", large);
    large.id = 2;
    assert.equal(((await runningLarge) as typeof large).id, 2);
  },
);

test("a value that is wide, sparse, deep or has a toJSON arrives as it is", DEADLINE, async (t) => {
  const manager = await managed(t);
  const echoed = async <T>(value: T): Promise<T> => (await manager.run("echo", value)) as T;
  const sparse: unknown[] = [];
  sparse[2 ** 31] = { id: 1 }; // too many places to walk through
  assert.deepEqual(Object.entries(await echoed(sparse)), [[String(2 ** 31), { id: 1 }]]);
  const chain = Array.from({ length: 300 }, (_, i) => ({
    i,
    data: Buffer.from(`${i}`),
    next: undefined as object | undefined,
  }));
  for (const [i, link] of chain.entries()) link.next = chain[i + 1];
  const links = await echoed(chain);
  for (const [i, link] of links.entries()) {
    assert.equal(link.next, links[i + 1]);
    assert.ok(Buffer.isBuffer(link.data), `${i}`);
    assert.equal(link.data.buffer.byteLength, link.data.length);
  }
  const user = Object.defineProperty({ name: "a", age: 1 }, "toJSON", { value: () => ({ name: "hidden" }) });
  assert.deepEqual(await echoed({ user }), { user: { name: "a", age: 1 } });
  const dictionary = Object.fromEntries(Array.from({ length: 2_000 }, (_, i) => [`key ${i}`, i]));
  assert.deepEqual(await echoed(dictionary), dictionary);
});

test("views that move together still share their buffer", DEADLINE, async (t) => {
  const manager = await managed(t);
  const all = new Uint8Array(20_000);
  const parts = { head: Buffer.from(all.buffer, 0, 5_000), body: all.subarray(5_000) };
  const { head, body } = (await manager.run("echoMoved", parts, { transferList: [all.buffer] })) as typeof parts;
  assert.deepEqual([all.length, head.length, body.length], [0, 5_000, 15_000]);
  assert.ok(Buffer.isBuffer(head));
  assert.equal(head.buffer, body.buffer);
});

test("each caller has an error of its own, also if one event causes all of them", DEADLINE, async (t) => {
  const manager = await managed(t);
  const failures = await atOnce(4, () => manager.run("exit").catch((error: unknown) => error));
  for (const failure of failures) assert.ok(code("THREAD_DIED")(failure), String(failure));
  assert.equal(new Set(failures).size, 4);
});
