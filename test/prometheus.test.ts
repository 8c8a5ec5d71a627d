import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test, type TestContext } from "node:test";
import { Registry } from "prom-client";
import { register, type RegisterOptions } from "../src/adapters/prometheus.js";
import type { ConnectionManager, ManagerOptions } from "../src/index.js";
import type * as Tasks from "./fixtures/tasks.js";
import { eventually } from "./support/gate.js";
import { code, fixture, manage } from "./support/manage.js";
import { startRedis, type RedisServer } from "./support/redis-server.js";

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
  const stop = register(manager, { registry, ...options });
  t.after(stop);
  return { manager, registry, stop };
}

interface Metric {
  readonly type: string;
  /** By the labels as they are written, "" for none. */
  readonly samples: Map<string, number>;
}

/** The text format, strictly: a line that is none of HELP, TYPE and sample fails. */
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

test("a scrape is the text format and tells what stats() tells", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 1 }, { taskBuckets: [0.1, 10] });
  await manager.ready();
  await manager.run("setAndGet", { key: "p", value: "1" });
  await manager.run("watchAndAdd", "n");
  await assert.rejects(manager.run("fail", "x"));
  const metrics = parse(await registry.metrics());
  const { threadId } = manager.stats().threads[0]!;
  const samples = (name: string): Record<string, number> => Object.fromEntries(metrics.get(name)!.samples);
  assert.deepEqual(samples("redthread_tasks_total"), {
    'task_outcome="done"': 2,
    'task_outcome="failed"': 1,
    'task_outcome="abandoned"': 0,
    'task_outcome="refused"': 0,
  });
  assert.deepEqual(samples("redthread_tasks_running"), { [`thread_id="${threadId}"`]: 0 });
  assert.deepEqual(samples("db_client_connection_count"), {
    'pool_name="redthread.dedicated",state="idle"': 1,
    'pool_name="redthread.dedicated",state="used"': 0,
  });
  assert.deepEqual(samples("redthread_connections_open"), { "": 3 });
  assert.deepEqual(samples("redthread_connections_limit"), {}, "there is none");
  assert.deepEqual(samples("redthread_breaker_open"), { "": 0 });
  assert.deepEqual(samples("redthread_primary_connected"), { "": 1 });
  assert.deepEqual(samples("redthread_threads")['thread_state="ready"'], 1);
  assert.equal(metrics.get("redthread_acquires_total")!.type, "counter");
  assert.deepEqual(samples("redthread_acquires_total"), { "": 2 });
  const durations = samples("redthread_task_duration_seconds");
  assert.equal(durations['_count task="setAndGet",error=""'], 1);
  assert.equal(durations['_bucket le="+Inf",task="fail",error="Error"'], 1);
});

test("a scrape over http while all threads are blocked answers with the numbers of this moment", LIMIT, async (t) => {
  const { manager, registry } = scraped(t, { count: 2, concurrency: 1 });
  await manager.ready();
  const http = createServer((_, response) => {
    void registry.metrics().then((text) => response.end(text));
  }).listen(0, "127.0.0.1");
  t.after(() => http.close());
  await once(http, "listening");
  const scrape = async (): Promise<Map<string, Metric>> => {
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
  const metrics = await scrape();
  const running = [...metrics.get("redthread_tasks_running")!.samples.values()];
  assert.deepEqual(running, [1, 1]);
  assert.equal(metrics.get("redthread_queue_size")!.samples.get(""), 3);
  // Of the last second and more, in which they did nothing but spin: known although they answer nothing.
  await eventually(async () => {
    const busy = [...(await scrape()).get("redthread_thread_loop_busy_ratio")!.samples.values()];
    return busy.every((share) => share > 0.9);
  }, 10_000);
  assert.equal(hasEnded, false, "they spin still");

  giveUp.abort();
  for (const { status } of await waiting) assert.equal(status, "rejected");
  const afterwards = await scrape();
  assert.equal(afterwards.get("redthread_queue_size")!.samples.get(""), 0);
  assert.equal(afterwards.get("redthread_tasks_total")!.samples.get('task_outcome="abandoned"'), 3);
  const report = await manager.shutdown({ drainMs: 0, closeMs: 500 });
  assert.ok(report.threads.every(({ outcome }) => outcome === "forced"));
  for (const one of await spinning) assert.ok(one.status === "rejected" && code("TASK_ABORTED")(one.reason));
});

test("a prefix goes before every name, and after its end nothing is registered", LIMIT, async (t) => {
  const { registry, stop } = scraped(t, { count: 1 }, { prefix: "shop_", taskBuckets: [1] });
  const names = [...parse(await registry.metrics()).keys()];
  assert.ok(names.length > 20 && names.every((name) => name.startsWith("shop_")));
  stop();
  assert.equal((await registry.metrics()).trim(), "");
});

test(
  "the dashboard names no metric that a scrape does not have, and shows each that a scrape has",
  LIMIT,
  async (t) => {
    const { manager, registry } = scraped(t, { count: 1 }, { taskBuckets: [1] });
    await manager.run("echo", 1);
    const metrics = parse(await registry.metrics());
    const dashboard = JSON.parse(
      readFileSync(new URL("../../docs/grafana-dashboard.json", import.meta.url), "utf8"),
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
