import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { context, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  type MetricData,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  AlwaysOffSampler,
  InMemorySpanExporter,
  type Sampler,
  SimpleSpanProcessor,
  TracerProvider,
} from "@opentelemetry/sdk-trace";
import { instrument } from "../src/adapters/otel.js";
import type { ConnectionManager } from "../src/index.js";
import type * as Tasks from "./fixtures/traced-tasks.js";
import { fixture, manage } from "./support/manage.js";
import { plainSpans } from "./support/plain-spans.js";
import { startRedis, type RedisServer } from "./support/redis-server.js";

const LIMIT = { timeout: 30_000 };

let server: RedisServer;
before(async () => {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  server = await startRedis();
});
after(() => server.stop());

interface Traced {
  readonly manager: ConnectionManager<typeof Tasks>;
  readonly exporter: InMemorySpanExporter;
  readonly tracerProvider: TracerProvider;
  readonly stop: () => void;
  /** Collects once. */
  readonly metrics: () => Promise<Map<string, MetricData>>;
}

function traced(t: TestContext, sampler?: Sampler): Traced {
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("traced-tasks"), threads: { count: 1 } });
  const exporter = new InMemorySpanExporter();
  const spanProcessors = [new SimpleSpanProcessor({ exporter })];
  const tracerProvider = new TracerProvider({ spanProcessors, ...(sampler && { sampler }) });
  const collected = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const reader = new PeriodicExportingMetricReader({ exporter: collected, exportIntervalMillis: 2 ** 30 });
  const meterProvider = new MeterProvider({ readers: [reader] });
  t.after(() => meterProvider.shutdown());
  const stop = instrument(manager, { meterProvider, tracerProvider });
  t.after(stop);
  const metrics = async (): Promise<Map<string, MetricData>> => {
    await reader.forceFlush();
    const all = (collected.getMetrics().at(-1)?.scopeMetrics ?? []).flatMap((scope) => scope.metrics);
    return new Map(all.map((metric) => [metric.descriptor.name, metric]));
  };
  return { manager, exporter, tracerProvider, stop, metrics };
}

test(
  "one trace leads from the caller's span over run() and the task in its thread to the command sent to Redis",
  LIMIT,
  async (t) => {
    const { manager, exporter, tracerProvider } = traced(t);
    await manager.ready();
    await tracerProvider.getTracer("test").startActiveSpan("request", async (span) => {
      await manager.run("score", "42");
      span.end();
    });
    const [run, request] = plainSpans(exporter);
    const inThread = await manager.run("spans");
    const task = inThread.find(({ name }) => name === "score")!;
    const commands = inThread.filter(({ parentId }) => parentId === task.spanId);

    assert.equal(run!.name, "run score");
    assert.equal(run!.parentId, request!.spanId);
    assert.equal(task.parentId, run!.spanId);
    assert.ok(commands.some(({ name }) => name === "SET") && commands.some(({ name }) => name === "INCR"));
    for (const span of [run!, task, ...commands]) assert.equal(span.traceId, request!.traceId);
    const set = commands.find(({ name }) => name === "SET")!;
    assert.deepEqual(set.attributes, {
      "db.system.name": "redis",
      "db.operation.name": "SET",
      "db.namespace": "0",
      "server.address": "127.0.0.1",
      "server.port": server.port,
    });
    assert.equal(run!.attributes["redthread.thread.id"], manager.stats().threads[0]!.threadId);
  },
);

test(
  "a failure marks the spans of run(), of the task and of the command with its code, and shows no message",
  LIMIT,
  async (t) => {
    const { manager, exporter } = traced(t);
    await assert.rejects(manager.run("wrongType", "s3cret"), /WRONGTYPE/);
    const main = plainSpans(exporter);
    const inThread = await manager.run("spans");
    const failed = [...main, ...inThread].filter(({ hasFailed }) => hasFailed);
    assert.deepEqual(
      failed.map(({ name, attributes }) => [name, attributes["error.type"]]),
      [
        ["run wrongType", "WRONGTYPE"],
        ["LPUSH", "WRONGTYPE"],
        ["wrongType", "WRONGTYPE"],
      ],
    );
    assert.ok(!JSON.stringify([main, inThread]).includes("s3cret"));
  },
);

test(
  "a command that waits for a reconnect has its span under its own task, not under who connected first",
  LIMIT,
  async (t) => {
    const { manager } = traced(t);
    await manager.run("score", "1");
    await manager.run("spans");
    await manager.run("scoreThroughLoss", "1");
    const spans = await manager.run("spans");
    const task = spans.find(({ name }) => name === "scoreThroughLoss")!;
    assert.deepEqual(
      spans.filter(({ name }) => name === "INCR").map(({ parentId }) => parentId),
      [task.spanId],
    );
  },
);

test("tasks of map() are children of the span that called it, also those submitted later", LIMIT, async (t) => {
  const { manager, exporter, tracerProvider } = traced(t);
  const ids = Array.from({ length: 8 }, (_, i) => String(i));
  await tracerProvider.getTracer("test").startActiveSpan("batch", async (span) => {
    for await (const n of manager.map("score", ids, { concurrency: 2 })) assert.equal(typeof n, "number");
    span.end();
  });
  const spans = plainSpans(exporter);
  const batch = spans.find(({ name }) => name === "batch")!;
  const runs = spans.filter(({ name }) => name === "run score");
  assert.equal(runs.length, ids.length);
  assert.ok(runs.every(({ parentId }) => parentId === batch.spanId));
});

test("a trace that is not sampled on the main thread is not sampled in the thread", LIMIT, async (t) => {
  const { manager, stop } = traced(t, new AlwaysOffSampler());
  await manager.run("score", "1");
  assert.deepEqual(await manager.run("spans"), []);
  stop(); // from here on no trace comes with a task: the thread begins its own
  await manager.run("score", "2");
  const roots = (await manager.run("spans")).filter(({ parentId }) => parentId === undefined);
  assert.ok(roots.some(({ name }) => name === "score"));
});

test("metrics follow the semantic conventions and tell what stats() tells", LIMIT, async (t) => {
  const { manager, metrics } = traced(t);
  await manager.run("score", "1");
  await assert.rejects(manager.run("wrongType", "w"), /WRONGTYPE/);
  const all = await metrics();
  const points = (name: string): [number, unknown][] =>
    all.get(name)!.dataPoints.map(({ value, attributes }) => [value as number, attributes]);
  const pool = { "db.client.connection.pool.name": "redthread.dedicated" };
  assert.deepEqual(points("db.client.connection.count"), [
    [1, { ...pool, "db.client.connection.state": "idle" }],
    [0, { ...pool, "db.client.connection.state": "used" }],
  ]);
  assert.deepEqual(points("db.client.connection.limit"), [[4, pool]]);
  for (const [name, value] of [
    ["pending_requests", 0],
    ["timeouts", 0],
    ["idle.max", 4],
    ["idle.min", 0],
  ] as const) {
    assert.deepEqual(points(`db.client.connection.${name}`), [[value, pool]], name);
  }
  const outcomes = new Map(points("redthread.tasks").map(([n, at]) => [Object.values(at as object)[0], n]));
  assert.deepEqual(Object.fromEntries(outcomes), { done: 1, failed: 1, abandoned: 0, refused: 0 });
  const { threadId } = manager.stats().threads[0]!;
  assert.deepEqual(points("redthread.tasks.running"), [[0, { "redthread.thread.id": threadId }]]);
  const durations = all.get("redthread.task.duration")!.dataPoints.map(({ attributes }) => attributes);
  assert.deepEqual(durations, [
    { "redthread.task.name": "score" },
    { "redthread.task.name": "wrongType", "error.type": "WRONGTYPE" },
  ]);
});

test("a thread's own meter has the times of connections, waits, leases and commands", LIMIT, async (t) => {
  const { manager } = traced(t);
  await assert.rejects(manager.run("wrongType", "w"), /WRONGTYPE/);
  const { "db.client.operation.duration": commands, ...counts } = await manager.run("histograms");
  assert.deepEqual(counts, {
    "db.client.connection.create_time": 1,
    "db.client.connection.wait_time": 1,
    "db.client.connection.use_time": 1,
  });
  assert.ok(commands! >= 2);
});

test("after its end an instrumentation leaves neither spans nor metrics, and tasks run on", LIMIT, async (t) => {
  const { manager, exporter, stop, metrics } = traced(t);
  stop();
  assert.equal(await manager.run("score", "after"), 1);
  assert.deepEqual(plainSpans(exporter), []);
  assert.equal((await metrics()).size, 0);
  assert.equal(trace.getActiveSpan(), undefined);
  await assert.rejects(manager.run("wrongType", "w"), /WRONGTYPE/);
});
