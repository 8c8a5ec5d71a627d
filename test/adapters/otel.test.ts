import assert from "node:assert/strict";
import { after, before, test, type TestContext } from "node:test";
import { type Attributes, type Context, context, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  type MetricData,
  PeriodicExportingMetricReader,
  type ViewOptions,
} from "@opentelemetry/sdk-metrics";
import {
  AlwaysOffSampler,
  InMemorySpanExporter,
  type Sampler,
  SimpleSpanProcessor,
  TracerProvider,
} from "@opentelemetry/sdk-trace";
import { instrument } from "../../src/adapters/otel.js";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/traced-tasks.js";
import type * as WornTasks from "../fixtures/worn-tasks.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { plainSpans } from "../support/plain-spans.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

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
  readonly meterProvider: MeterProvider;
  readonly stop: () => void;
  /** Collects once. */
  readonly metrics: () => Promise<Map<string, MetricData>>;
}

interface TracedOptions extends Partial<ManagerOptions> {
  readonly sampler?: Sampler;
  readonly views?: ViewOptions[];
}

function traced(t: TestContext, { sampler, views = [], ...options }: TracedOptions = {}): Traced {
  const common = { tasks: fixture("traced-tasks"), threads: { count: 1 } };
  const manager = manage<typeof Tasks>(t, server, { ...common, ...options });
  const exporter = new InMemorySpanExporter();
  const spanProcessors = [new SimpleSpanProcessor({ exporter })];
  const tracerProvider = new TracerProvider({ spanProcessors, ...(sampler && { sampler }) });
  const collected = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const reader = new PeriodicExportingMetricReader({ exporter: collected, exportIntervalMillis: 2 ** 30 });
  const meterProvider = new MeterProvider({ readers: [reader], views });
  t.after(() => meterProvider.shutdown());
  const stop = instrument(manager, { meterProvider, tracerProvider, name: "main" });
  t.after(stop);
  const metrics = async (): Promise<Map<string, MetricData>> => {
    await reader.forceFlush();
    const all = (collected.getMetrics().at(-1)?.scopeMetrics ?? []).flatMap((scope) => scope.metrics);
    return new Map(all.map((metric) => [metric.descriptor.name, metric]));
  };
  return { manager, exporter, tracerProvider, meterProvider, stop, metrics };
}

/** Values and attributes of each series, without the manager's name if it is "main". */
function pointsOf(metric: MetricData | undefined): [number, Attributes][] {
  return metric!.dataPoints.map(({ value, attributes }) => {
    const { "redthread.manager": name, ...others } = attributes;
    return [value as number, name === "main" ? others : { ...attributes }];
  });
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
    const status = failed.map(({ attributes }) => attributes["db.response.status_code"]);
    assert.deepEqual(status, [undefined, "WRONGTYPE", undefined], "of the command, as the server said it");
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
  "a command that waits for a reconnect has its span under its own task, not under the task that connected first",
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

test("after a thousand tasks of a map() each has a trace of its own, linked to the caller's span", LIMIT, async (t) => {
  const { manager, exporter, tracerProvider } = traced(t);
  const inputs = Array.from({ length: 1_003 }, () => undefined);
  await tracerProvider.getTracer("test").startActiveSpan("batch", async (span) => {
    for await (const spans of manager.map("nothing", inputs)) assert.equal(spans, undefined);
    span.end();
  });
  const spans = plainSpans(exporter);
  const batch = spans.find(({ name }) => name === "batch")!;
  const runs = spans.filter(({ name }) => name === "run nothing");
  const children = runs.filter(({ parentId }) => parentId === batch.spanId);
  const others = runs.filter(({ parentId }) => parentId === undefined);
  assert.deepEqual([children.length, others.length], [1_000, 3]);
  assert.ok(children.every(({ traceId, links }) => traceId === batch.traceId && links.length === 0));
  assert.equal(new Set([batch, ...others].map(({ traceId }) => traceId)).size, 4);
  for (const { links } of others) assert.deepEqual(links, [batch.spanId]);
});

test("a pipeline and a transaction are one operation each, with the number of their commands", LIMIT, async (t) => {
  const { manager } = traced(t);
  await manager.run("batches", "batch:key");
  const spans = await manager.run("spans");
  const task = spans.find(({ name }) => name === "batches")!;
  assert.deepEqual(
    spans
      .filter(({ parentId }) => parentId === task.spanId)
      .map(({ name, attributes, hasFailed }) => [name, attributes["db.operation.batch.size"], hasFailed]),
    [
      ["PIPELINE", 2, false],
      ["PIPELINE GET", 3, false],
      ["MULTI INCR", 2, false],
      ["MULTI", 2, false],
      ["STRLEN", undefined, false],
      ["MULTI", 0, false],
      ["PIPELINE", 2, true],
    ],
  );
  const { attributes } = spans.find(({ name, hasFailed }) => name === "PIPELINE" && hasFailed)!;
  assert.equal(attributes["db.operation.name"], "PIPELINE");
  assert.equal(attributes["db.response.status_code"], "WRONGTYPE");
  const operations = new Set((await manager.run("operations")).map((one) => one["db.operation.name"]));
  for (const name of ["PIPELINE", "PIPELINE GET", "MULTI INCR", "MULTI", "STRLEN"]) assert.ok(operations.has(name));
  assert.ok(!operations.has("INCR") && !operations.has("EXEC"));
});

test("the PING of a check has no span under the task that causes it; a task's own PING has one", LIMIT, async (t) => {
  const { manager } = traced(t, { redis: { idleCheckMs: 0 } });
  await manager.run("score", "1");
  await manager.run("spans");
  await manager.run("score", "2");
  await manager.run("ping");
  const spans = await manager.run("spans");
  const nameOf = (id: string | undefined): string | undefined => spans.find(({ spanId }) => spanId === id)?.name;
  const commands = spans.filter(({ attributes }) => attributes["db.system.name"] === "redis");
  assert.deepEqual(
    commands.map(({ name, parentId }) => [name, nameOf(parentId)]),
    [
      ["SET", "score"],
      ["INCR", "score"],
      ["PING", "ping"],
    ],
  );
});

test("a trace that is not sampled on the main thread is not sampled in the thread", LIMIT, async (t) => {
  const { manager, stop } = traced(t, { sampler: new AlwaysOffSampler() });
  await manager.run("score", "1");
  assert.deepEqual(await manager.run("spans"), []);
  stop(); // from here on tasks carry no trace: the thread begins its own
  await manager.run("score", "2");
  const roots = (await manager.run("spans")).filter(({ parentId }) => parentId === undefined);
  assert.ok(roots.some(({ name }) => name === "score"));
});

test("metrics follow the semantic conventions and show the numbers of stats()", LIMIT, async (t) => {
  const { manager, metrics } = traced(t);
  await manager.run("score", "1");
  await assert.rejects(manager.run("wrongType", "w"), /WRONGTYPE/);
  const all = await metrics();
  const points = (name: string): [number, Attributes][] => pointsOf(all.get(name));
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
  const outcomes = new Map(points("redthread.tasks").map(([n, at]) => [at["redthread.task.outcome"], n]));
  assert.deepEqual(Object.fromEntries(outcomes), { done: 1, failed: 1, abandoned: 0, refused: 0 });
  assert.deepEqual(points("redthread.tasks.running"), [[0, { "redthread.thread.place": 0 }]]);
  assert.equal(all.get("redthread.tasks.running")!.dataPoints[0]!.attributes["redthread.manager"], "main");
  const durations = points("redthread.task.duration").map(([, attributes]) => attributes);
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

test("a thread's own meter has how long its locks were waited for and held", LIMIT, async (t) => {
  const { manager, metrics } = traced(t);
  for (const key of ["first", "second"]) await manager.run("locked", key);
  const { "redthread.lock.wait": waits, "redthread.lock.duration": holds } = await manager.run("histograms");
  assert.deepEqual([waits, holds], [2, 2]);
  const all = await metrics();
  assert.deepEqual(pointsOf(all.get("redthread.keeper.connected")), [[1, {}]]);
  assert.equal(all.get("redthread.near.reads"), undefined, "there is no near cache");
});

test("managers that share a meter provider can be told apart", LIMIT, async (t) => {
  const { manager, meterProvider, metrics } = traced(t);
  const other = manage<typeof Tasks>(t, server, { tasks: fixture("traced-tasks"), threads: { count: 1 } });
  t.after(instrument(other, { meterProvider }));
  await manager.run("nothing");
  for (let i = 0; i < 2; i++) await other.run("nothing");
  const all = await metrics();
  const id = { "redthread.manager": String(other.id) };
  const done = pointsOf(all.get("redthread.tasks")).filter(([, at]) => at["redthread.task.outcome"] === "done");
  const outcome = { "redthread.task.outcome": "done" };
  assert.deepEqual(done, [
    [1, outcome],
    [2, { ...outcome, ...id }],
  ]);
  const durations = all.get("redthread.task.duration")!.dataPoints;
  assert.deepEqual(
    durations.map(({ value }) => (value as { count: number }).count),
    [1, 2],
  );
});

test("a place has one series, whatever threads have it, and shows nothing once there is none", LIMIT, async (t) => {
  const recycling = { tasks: fixture("worn-tasks"), threads: { count: 1, maxTasks: 1 } };
  const { manager, metrics } = traced(t, recycling);
  const worn = manager as unknown as ConnectionManager<typeof WornTasks>;
  const ids = new Set<number>();
  while (ids.size < 4) {
    ids.add(await worn.run("add", "recycled:otel"));
    await metrics();
  }
  const heap = async (): Promise<[number, Attributes][]> => pointsOf((await metrics()).get("redthread.thread.heap"));
  await eventually(async () => (await heap())[0]![0] > 0);
  assert.deepEqual(
    (await heap()).map(([, attributes]) => attributes),
    [{ "redthread.thread.place": 0 }],
  );
  await manager.shutdown();
  assert.deepEqual(await heap(), [[0, { "redthread.thread.place": 0 }]]);
});

test("names of tasks and commands that do not exist do not each become a series", LIMIT, async (t) => {
  const { manager, exporter, metrics } = traced(t);
  const unknown = Array.from({ length: 200 }, (_, i) => manager.run(`job-${i}` as "nothing"));
  for (const { status } of await Promise.allSettled(unknown)) assert.equal(status, "rejected");
  assert.deepEqual(
    pointsOf((await metrics()).get("redthread.task.duration")).map(([, attributes]) => attributes),
    [{ "redthread.task.name": "_OTHER", "error.type": "REDTHREAD_TASK_NOT_FOUND" }],
  );
  const spans = plainSpans(exporter);
  assert.ok(spans.every(({ name }) => name === "run _OTHER"));
  assert.equal(new Set(spans.map(({ attributes }) => attributes["redthread.task.name"])).size, 200);
  await manager.run("unknownCommands", 200);
  const operations = (await manager.run("operations")).map((one) => String(one["db.operation.name"]));
  assert.equal(operations.filter((name) => name.startsWith("NONE")).length, 50);
  assert.equal(operations.filter((name) => name === "_OTHER").length, 1);
});

test("a task's time is recorded in the context of its span, where an SDK finds its exemplars", LIMIT, async (t) => {
  const recorded: Record<string, unknown>[] = [];
  const attributesProcessors = [
    {
      process(incoming: Attributes, within?: Context): Attributes {
        recorded.push({ traceId: within && trace.getSpanContext(within)?.traceId });
        return incoming;
      },
    },
  ];
  const views = [{ instrumentName: "redthread.task.*", attributesProcessors }];
  const { manager, exporter } = traced(t, { views });
  await manager.run("nothing");
  const [{ traceId } = { traceId: undefined }] = plainSpans(exporter);
  assert.deepEqual(recorded, [{ traceId }, { traceId }]);
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
