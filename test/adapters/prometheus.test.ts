import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test, type TestContext } from "node:test";
import { SimpleSpanProcessor, InMemorySpanExporter, TracerProvider } from "@opentelemetry/sdk-trace";
import { AggregatorRegistry, Counter, type OpenMetricsContentType, Registry } from "prom-client";
import { instrument } from "../../src/adapters/otel.js";
import { register, type RegisterOptions } from "../../src/adapters/prometheus.js";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/tasks.js";
import type * as WornTasks from "../fixtures/worn-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 30_000 };

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

interface Scraped {
  readonly manager: ConnectionManager<typeof Tasks>;
  readonly registry: Registry;
  readonly stop: () => void;
}

function scraped(t: TestContext, threads: ManagerOptions["threads"], options: RegisterOptions = {}): Scraped {
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 2, ...threads } });
  const registry = new Registry();
  const stop = register(manager, { registry, name: "main", ...options });
  t.after(stop);
  return { manager, registry, stop };
}

/** The values of metric `name`, by their labels in the text format. */
async function scrape(registry: Registry, name: string): Promise<Record<string, number>> {
  return Object.fromEntries(parse(await registry.metrics()).get(name)!.samples);
}

const done = (manager: string): string => `manager="${manager}",task_outcome="done"`;

interface Metric {
  readonly type: string;
  /** By the labels in the text format, "" for none. */
  readonly samples: Map<string, number>;
}

/** Parses the text format strictly: a line that is no HELP, TYPE or sample fails. */
function parse(text: string): Map<string, Metric> {
  const metrics = new Map<string, Metric>();
  for (const line of text.split("\n").filter((one) => one !== "" && !one.startsWith("# HELP "))) {
    const [, typed, type] = /^# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram)$/.exec(line) ?? [];
    if (typed) metrics.set(typed, { type: type!, samples: new Map() });
    else {
      const found = /^([a-zA-Z_:][\w:]*?)(_bucket|_sum|_count)?(?:\{(.*)\})? (-?[\d.e+-]+|NaN|\+Inf)$/.exec(line);
      assert.ok(found, line);
      const [, name, part = "", labels = "", value] = found;
      const metric = metrics.get(`${name}${part}`) ?? metrics.get(name!);
      assert.ok(metric, `${line} comes before its TYPE`);
      metric.samples.set(metric.type === "histogram" ? `${part} ${labels}` : labels, Number(value));
    }
  }
  return metrics;
}

test("a scrape has the text format and the numbers of stats()", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 1 }, { taskBuckets: [0.1, 10] });
  await manager.ready();
  await manager.run("setAndGet", { key: "p", value: "1" });
  await manager.run("watchAndAdd", "n");
  await assert.rejects(manager.run("fail", "x"));
  const metrics = parse(await registry.metrics());
  const samples = (name: string): Record<string, number> => Object.fromEntries(metrics.get(name)!.samples);
  assert.deepEqual(samples("redthread_tasks_total"), {
    'manager="main",task_outcome="done"': 2,
    'manager="main",task_outcome="failed"': 1,
    'manager="main",task_outcome="abandoned"': 0,
    'manager="main",task_outcome="refused"': 0,
  });
  assert.deepEqual(samples("redthread_tasks_running"), { 'manager="main",thread_place="0"': 0 });
  assert.deepEqual(samples("db_client_connection_count"), {
    'manager="main",pool_name="redthread.dedicated",state="idle"': 1,
    'manager="main",pool_name="redthread.dedicated",state="used"': 0,
  });
  assert.deepEqual(samples("redthread_connections_open"), { 'manager="main"': 3 });
  assert.deepEqual(samples("redthread_connections_limit"), {}, "there is none");
  assert.deepEqual(samples("redthread_breaker_open"), { 'manager="main"': 0 });
  assert.deepEqual(samples("redthread_primary_connected"), { 'manager="main"': 1 });
  assert.deepEqual(samples("redthread_threads")['manager="main",thread_state="ready"'], 1);
  assert.equal(metrics.get("redthread_acquires_total")!.type, "counter");
  assert.deepEqual(samples("redthread_acquires_total"), { 'manager="main"': 2 });
  const durations = samples("redthread_task_duration_seconds");
  assert.equal(durations['_count manager="main",task="setAndGet",error=""'], 1);
  assert.equal(durations['_bucket le="+Inf",manager="main",task="fail",error="Error"'], 1);
});

test("numbers of locks are absent before the first one, and those of stats() then", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 1 });
  await manager.ready();
  const samples = (name: string): Promise<Record<string, number>> => scrape(registry, `redthread_${name}`);
  const near = ["near_serving", "near_reads_total", "near_replies_total", "near_size_bytes"]; // absent, too
  for (const name of ["keeper_connected", "locks_held", "locks_extended_total", "locks_lost_total", ...near])
    assert.deepEqual(await samples(name), {}, name);
  const lock = await manager.acquireLock("scraped", { ttlMs: 2_000 });
  await eventually(() => (manager.stats().keeper?.extended ?? 0) > 0, 5_000, "it is held and was extended");
  assert.deepEqual(await samples("keeper_connected"), { 'manager="main"': 1 });
  assert.deepEqual(await samples("locks_held"), { 'manager="main"': 1 });
  assert.deepEqual(await samples("locks_waiting"), { 'manager="main"': 0 });
  assert.deepEqual(await samples("locks_extension_failures_total"), { 'manager="main"': 0 });
  assert.ok((await samples("locks_extended_total"))['manager="main"']! > 0);
  await server.admin.del("scraped");
  await eventually(() => !lock.isHeld, 5_000, "it is lost");
  assert.deepEqual(await samples("locks_lost_total"), {
    'manager="main",reason="expired"': 0,
    'manager="main",reason="gone"': 1,
    'manager="main",reason="maxHold"': 0,
    'manager="main",reason="clock"': 0,
  });
});

test("numbers of the near cache are those of stats()", LIMIT, async (t) => {
  await server.admin.set("near:read", "1");
  const nearCache = { prefixes: ["near:"] };
  const manager = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 1 }, nearCache });
  await manager.ready();
  const registry = new Registry();
  t.after(register(manager, { registry, name: "main" }));
  const samples = (name: string): Promise<Record<string, number>> => scrape(registry, `redthread_near_${name}`);
  await eventually(async () => (await samples("serving"))['manager="main"'] === 1, 20_000, "values may be served");
  for (const _ of [1, 2, 3]) await manager.near.get("near:read");
  assert.deepEqual(await samples("reads_total"), {
    'manager="main",near_result="own"': 2,
    'manager="main",near_result="shared"': 0,
    'manager="main",near_result="missed"': 1,
    'manager="main",near_result="unleased"': 0,
  });
  assert.deepEqual(await samples("replies_total"), {
    'manager="main",near_outcome="kept"': 1,
    'manager="main",near_outcome="outdated"': 0,
    'manager="main",near_outcome="elsewhere"': 0,
    'manager="main",near_outcome="oversize"': 0,
  });
  await server.admin.set("near:written", "1");
  await eventually(async () => (await samples("invalidated_total"))['manager="main"'] === 1, 20_000, "it is told");
  assert.deepEqual(await samples("limit_bytes"), { 'manager="main"': 2 ** 26 });
  assert.ok((await samples("size_bytes"))['manager="main"']! > 0);
  assert.ok((await samples("flushes_total"))['manager="main"']! > 0);
  assert.deepEqual(await samples("wraps_total"), { 'manager="main"': 0 });
});

test("a scrape over http while all threads are blocked answers with the numbers of this moment", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 2, concurrency: 1 });
  await manager.ready();
  const http = createServer((_, response) => {
    void registry.metrics().then((text) => response.end(text));
  }).listen(0, "127.0.0.1");
  t.after(() => http.close());
  await once(http, "listening");
  const scrapeAll = async (): Promise<Map<string, Metric>> => {
    const { port } = http.address() as AddressInfo;
    const response = await fetch(`http://127.0.0.1:${port}/metrics`, { headers: { connection: "close" } });
    return parse(await response.text());
  };

  let hasEnded = false;
  const spinning = Promise.allSettled([1, 2].map((i) => manager.run("spin", `spins:${i}`)));
  void spinning.then(() => (hasEnded = true));
  await eventually(async () => (await server.admin.exists("spins:1", "spins:2")) === 2);
  const giveUp = new AbortController();
  const waiting = Promise.allSettled([1, 2, 3].map((n) => manager.run("echo", n, { signal: giveUp.signal })));
  const metrics = await scrapeAll();
  const running = [...metrics.get("redthread_tasks_running")!.samples.values()];
  assert.deepEqual(running, [1, 1]);
  assert.equal(metrics.get("redthread_queue_size")!.samples.get('manager="main"'), 3);
  // The last second and more, in which they only spun: known although they answer nothing.
  await eventually(async () => {
    const busy = [...(await scrapeAll()).get("redthread_thread_loop_busy_ratio")!.samples.values()];
    return busy.every((share) => share > 0.9);
  }, 10_000);
  assert.equal(hasEnded, false, "they spin still");

  giveUp.abort();
  for (const { status } of await waiting) assert.equal(status, "rejected");
  const afterwards = await scrapeAll();
  assert.equal(afterwards.get("redthread_queue_size")!.samples.get('manager="main"'), 0);
  assert.equal(afterwards.get("redthread_tasks_total")!.samples.get('manager="main",task_outcome="abandoned"'), 3);
  const report = await manager.shutdown({ drainMs: 0, closeMs: 500 });
  assert.ok(report.threads.every(({ outcome }) => outcome === "forced"));
  for (const one of await spinning) assert.ok(one.status === "rejected" && code("TASK_ABORTED")(one.reason));
});

test("a prefix precedes every name, and after the registration's end nothing is registered", LIMIT, async (t) => {
  const { registry, stop } = scraped(t, { count: 1 }, { prefix: "shop_", taskBuckets: [1] });
  const names = [...parse(await registry.metrics()).keys()];
  assert.ok(names.length > 20 && names.every((name) => name.startsWith("shop_")));
  stop();
  assert.equal((await registry.metrics()).trim(), "");
});

test("without a thread a scrape shows none, and the metrics of others", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 2 });
  new Counter({ name: "orders_total", help: "Somebody else's", registers: [registry] }).inc(3);
  await manager.ready();
  await manager.shutdown();
  assert.deepEqual(manager.stats().threads, []);
  const states = await scrape(registry, "redthread_threads");
  assert.ok(Object.values(states).every((count) => count === 0));
  const none = { 'manager="main",thread_place="0"': 0, 'manager="main",thread_place="1"': 0 };
  for (const name of ["tasks_running", "thread_loop_busy_ratio", "thread_heap_bytes"]) {
    assert.deepEqual(await scrape(registry, `redthread_${name}`), none, name);
  }
  assert.deepEqual(await scrape(registry, "orders_total"), { "": 3 });
});

test("a scrape is answered while no thread can start", LIMIT, async (t) => {
  const manager = manage(t, server, { tasks: fixture("setup-rejects"), threads: { count: 1 } });
  const registry = new Registry();
  t.after(register(manager, { registry, name: "main" }));
  await assert.rejects(manager.ready(), code("THREAD_START_FAILED"));
  await eventually(() => manager.stats().threads.length === 0);
  assert.deepEqual(await scrape(registry, "redthread_tasks_running"), { 'manager="main",thread_place="0"': 0 });
});

test("managers that share a registry can be told apart, and each leaves it by itself", LIMIT, async (t) => {
  const { manager, registry, stop } = scraped(t, { count: 1 }, { taskBuckets: [10] });
  const other = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 1 } });
  const stopOther = register(other, { registry, taskBuckets: [10] });
  t.after(stopOther);
  await manager.run("echo", 1);
  for (let i = 0; i < 2; i++) await other.run("echo", 1);
  const id = String(other.id);
  const durations = async (name: string): Promise<number | undefined> =>
    (await scrape(registry, "redthread_task_duration_seconds"))[`_count manager="${name}",task="echo",error=""`];
  const tasks = await scrape(registry, "redthread_tasks_total");
  assert.deepEqual([tasks[done("main")], tasks[done(id)]], [1, 2]);
  assert.deepEqual([await durations("main"), await durations(id)], [1, 2]);
  stop();
  await other.run("echo", 1);
  const left = await scrape(registry, "redthread_tasks_total");
  assert.deepEqual([left[done("main")], left[done(id)]], [undefined, 3]);
  assert.equal(await durations(id), 3);
  stopOther();
  assert.equal((await registry.metrics()).trim(), "");
});

test("no two managers of a registry have one name, and the same one counts once", LIMIT, async (t) => {
  const { manager, registry, stop } = scraped(t, { count: 1 }, { taskBuckets: [10] });
  const other = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 1 } });
  assert.throws(
    () => register(other, { registry, name: "main" }),
    (error: Error) => code("CONFIG_INVALID")(error) && /"main"/.test(error.message),
  );
  await manager.run("echo", 1);
  const stopAgain = register(manager, { registry, name: "main", taskBuckets: [10] }); // like a module that is loaded again
  for (let i = 0; i < 2; i++) await Promise.all([manager.run("echo", 1), other.run("echo", 1)]);
  const isCountedOnce = async (): Promise<void> => {
    assert.equal((await scrape(registry, "redthread_tasks_total"))[done("main")], 3);
    const durations = await scrape(registry, "redthread_task_duration_seconds");
    assert.equal(durations['_count manager="main",task="echo",error=""'], 3);
  };
  await isCountedOnce();
  stop(); // of the replaced registration
  await isCountedOnce();
  t.after(register(other, { registry, prefix: "other_", name: "main" })); // these are other metrics
  stopAgain();
  assert.doesNotMatch(await registry.metrics(), /^redthread_/m);
  register(other, { registry, name: "main" })();
});

test("a registration that fails leaves nothing, and earlier ones go on", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 1 });
  const beforehand = await registry.metrics();
  new Counter({ name: "redthread_task_wait_seconds", help: "Somebody else's", registers: [registry] }).inc();
  const other = manage<typeof Tasks>(t, server, { tasks: fixture("tasks"), threads: { count: 1 } });
  for (const one of [manager, other]) {
    assert.throws(() => register(one, { registry, name: String(one.id), taskBuckets: [10] }), /task_wait_seconds/);
  }
  registry.removeSingleMetric("redthread_task_wait_seconds");
  assert.equal(await registry.metrics(), beforehand);
});

test("threads that are recycled have the series of their place, one after the other", LIMIT, async (t) => {
  const threads = { count: 2, maxTasks: 1 };
  const manager = manage<typeof WornTasks>(t, server, { tasks: fixture("worn-tasks"), threads });
  const registry = new Registry();
  t.after(register(manager, { registry, name: "main" }));
  await manager.ready();
  const ids = new Set<number>();
  const series = new Set<string>();
  while (ids.size < 5) {
    ids.add(await manager.run("add", "recycled:place"));
    for (const { place, state } of manager.stats().threads) assert.ok(state === "closing" || place < 2);
    for (const name of Object.keys(await scrape(registry, "redthread_thread_heap_bytes"))) series.add(name);
  }
  assert.deepEqual([...series].toSorted(), ['manager="main",thread_place="0"', 'manager="main",thread_place="1"']);
  await eventually(() => manager.stats().threads.length === 2);
  assert.deepEqual(new Set(manager.stats().threads.map(({ place }) => place)), new Set([0, 1]));
});

test("names of tasks that do not exist are one series, and error codes have a bound", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 1 }, { taskBuckets: [10] });
  const counts = async (): Promise<Record<string, number>> => {
    const all = Object.entries(await scrape(registry, "redthread_task_duration_seconds"));
    return Object.fromEntries(all.filter(([name]) => name.startsWith("_count")));
  };
  const unknown = Array.from({ length: 500 }, (_, i) => manager.run(`job-${i}` as "echo", 1));
  for (const { status } of await Promise.allSettled(unknown)) assert.equal(status, "rejected");
  assert.deepEqual(await counts(), { '_count manager="main",task="_OTHER",error="REDTHREAD_TASK_NOT_FOUND"': 500 });

  // Cancelled before it is known that they do not exist.
  const giveUp = new AbortController();
  const given = Array.from({ length: 500 }, (_, i) => {
    return manager.run(`given-up-${i}` as "echo", 1, { signal: giveUp.signal });
  });
  giveUp.abort();
  for (const { status } of await Promise.allSettled(given)) assert.equal(status, "rejected");
  const failing = Array.from({ length: 500 }, (_, i) => manager.run("failWith", `E_${i}`));
  for (const { status } of await Promise.allSettled(failing)) assert.equal(status, "rejected");
  await manager.run("echo", 1);
  const ended = await counts();
  const of = (label: string): string[] => Object.keys(ended).filter((name) => name.includes(label));
  assert.equal(of('error="REDTHREAD_TASK_ABORTED"').length, 50 + 1);
  assert.equal(of('task="failWith"').length, 50 + 1);
  assert.equal(ended['_count manager="main",task="failWith",error="_OTHER"'], 450);
  assert.equal(ended['_count manager="main",task="echo",error=""'], 1);
});

test("metrics that do not add up are not added over the processes of a cluster", LIMIT, async (t) => {
  const workers = [scraped(t, { count: 1 }), scraped(t, { count: 1 })];
  for (const { manager } of workers) await manager.ready();
  await eventually(async () => {
    await Promise.all(workers.map(({ manager }) => manager.run("block", 50)));
    return workers.every(({ manager }) => manager.stats().threads[0]!.loopBusy > 0);
  }, 20_000);
  const told = await Promise.all(workers.map(({ registry }) => registry.getMetricsAsJSON()));
  await Promise.all(workers.map(({ manager }) => manager.shutdown()));
  const sent = JSON.parse(JSON.stringify(told)) as typeof told; // as node:cluster sends it
  const aggregator = AggregatorRegistry as unknown as { aggregate(metrics: typeof sent): Registry };
  const joined = aggregator.aggregate(sent);
  const of = async (name: string): Promise<number> => Object.values(await scrape(joined, name))[0]!;
  const shares = sent.map(
    (one) => one.find(({ name }) => name === "redthread_thread_loop_busy_ratio")!.values[0]!.value,
  );
  assert.ok(shares[0]! > 0 && shares[1]! > 0);
  assert.equal(await of("redthread_thread_loop_busy_ratio"), (shares[0]! + shares[1]!) / 2);
  assert.equal(await of("redthread_primary_connected"), 1);
  assert.equal(await of("redthread_breaker_open"), 0);
  assert.equal(await of("redthread_connections_open"), 2);
  assert.equal(await of("redthread_queue_limit"), 2 * workers[0]!.manager.stats().queue.max);
});

const openMetrics = { ...LIMIT, skip: !("OPENMETRICS_CONTENT_TYPE" in Registry) }; // prom-client 14, by test:peers
test("an OpenMetrics registry shows a task's trace as the exemplar of its time", openMetrics, async (t) => {
  const registry = new Registry<OpenMetricsContentType>();
  registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE);
  const { manager } = scraped(t, { count: 1 }, { registry, taskBuckets: [10] });
  const exporter = new InMemorySpanExporter();
  const tracerProvider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] });
  await manager.run("echo", "before");
  t.after(instrument(manager, { tracerProvider }));
  await manager.run("echo", "traced");
  const { traceId, spanId } = exporter.getFinishedSpans()[0]!.spanContext();
  const text = await registry.metrics();
  const exemplars = text.split("\n").filter((line) => line.includes(" # {"));
  assert.equal(exemplars.length, 2, "of the duration and of the wait");
  assert.ok(exemplars.every((line) => line.includes(`trace_id="${traceId}",span_id="${spanId}"`)));
});

test(
  "the dashboard names no metric that a scrape does not have, and shows each that a scrape has",
  LIMIT,
  async (t) => {
    const { manager, registry } = scraped(t, { count: 1 }, { taskBuckets: [1] });
    await manager.run("echo", 1);
    const metrics = parse(await registry.metrics());
    const dashboard = JSON.parse(
      readFileSync(new URL("../../../docs/grafana-dashboard.json", import.meta.url), "utf8"),
    ) as { panels: { title: string; targets?: { expr: string }[] }[] };
    const expressions = dashboard.panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
    const named = new Set(expressions.join(" ").match(/\b(redthread|db_client)_\w+/g));
    const series = new Set(
      [...metrics].flatMap(([name, { type }]) =>
        type === "histogram" ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
      ),
    );
    assert.deepEqual(
      [...named].filter((name) => !series.has(name)),
      [],
    );
    const shown = (name: string): boolean => named.has(name) || named.has(`${name}_bucket`);
    const constant = new Set(["db_client_connection_idle_max", "db_client_connection_idle_min"]);
    assert.deepEqual(
      [...metrics.keys()].filter((name) => !shown(name) && !constant.has(name)),
      [],
    );
  },
);
