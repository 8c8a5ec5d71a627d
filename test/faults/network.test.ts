import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/soak-tasks.js";
import { CountedLoad } from "../support/counted-load.js";
import { eventually } from "../support/gate.js";
import { fixture, manage } from "../support/manage.js";
import { type Proxy, startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const THREADS = 4;
/** The time to notice by a command's deadline and the PING after it, and 500 ms to connect. */
const RECOVERY_MS = 2_500;

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

interface Loaded {
  readonly manager: ConnectionManager<typeof Tasks>;
  readonly proxy: Proxy;
  readonly load: CountedLoad;
}

/** Four threads that write through a proxy. */
async function loaded(t: TestContext): Promise<Loaded> {
  const proxy = await startProxy(server.port);
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("soak-tasks"),
    threads: { count: THREADS },
    redis: { port: proxy.port, connectTimeoutMs: 1_000, commandTimeoutMs: 1_000, heartbeatMs: 1_000 },
  });
  t.after(() => proxy.close());
  await manager.ready();
  let writes = 0;
  const load = new CountedLoad({
    callers: 4 * THREADS,
    write: (key) => manager.run(++writes % 4 === 0 ? "incrDedicated" : "incr", key),
  });
  await load.progress(100);
  return { manager, proxy, load };
}

/** Ends the load and compares what its callers were told with what the server has counted. */
async function reckon(t: TestContext, { manager, proxy, load }: Loaded): Promise<void> {
  await load.stop();
  await manager.shutdown();
  // Commands that the network still holds reach the server late, and count among the uncertain ones.
  proxy.blackhole(false);
  await eventually(() => proxy.connections === 0);
  await server.waitForClients((clients) => clients.length === 0);
  t.diagnostic(load.summary());
  assert.deepEqual(await load.problems(server), []);
}

/** Waits until every thread and the primary are connected, and writes are acknowledged again. */
async function servingAgain({ manager, load }: Loaded): Promise<number> {
  const since = performance.now();
  const open = (): number => manager.stats().connections.open;
  await Promise.all([load.progress(THREADS, 10_000), eventually(() => open() > THREADS, 10_000)]);
  return performance.now() - since;
}

/** Resolves once every client has lost its connection and the breaker has opened. */
const isCutOff = ({ manager }: Loaded): Promise<true> =>
  eventually(() => manager.stats().connections.open === 0 && manager.stats().breaker.state !== "closed", 10_000);

async function ids(): Promise<Set<string>> {
  return new Set((await server.clients()).map(({ id }) => id));
}

test("under load all clients leave a black hole within 2.5 s after the path returns", async (t) => {
  const it = await loaded(t);
  it.proxy.blackhole(true);
  await isCutOff(it);
  it.proxy.blackhole(false);
  const tookMs = await servingAgain(it);
  t.diagnostic(`serving again after ${Math.round(tookMs)} ms`);
  await reckon(t, it);
  assert.ok(tookMs <= RECOVERY_MS, `${tookMs} ms`);
});

test("a path that returns without the packets it swallowed, connects included, is found within 2.5 s too", async (t) => {
  const it = await loaded(t);
  it.proxy.blackhole(true);
  await isCutOff(it);
  it.proxy.strand();
  const tookMs = await servingAgain(it);
  t.diagnostic(`serving again after ${Math.round(tookMs)} ms`);
  await reckon(t, it);
  assert.ok(tookMs <= RECOVERY_MS, `${tookMs} ms`);
});

test("when every open connection falls into a black hole for ever, new ones serve within 2.5 s", async (t) => {
  const it = await loaded(t);
  const stranded = await ids();
  it.proxy.strand();
  const since = performance.now();
  const fresh = async (): Promise<boolean> => {
    const threads = (await server.clients()).filter(({ name }) => name.endsWith(":thread"));
    return threads.filter(({ id }) => !stranded.has(id)).length === THREADS;
  };
  await eventually(fresh, 10_000);
  await it.load.progress(THREADS, 10_000);
  const tookMs = performance.now() - since;
  t.diagnostic(`serving again after ${Math.round(tookMs)} ms`);
  await reckon(t, it);
  assert.ok(tookMs <= RECOVERY_MS, `${tookMs} ms`);
});

const FAULTS: Record<string, (it: Loaded) => Promise<unknown>> = {
  "is slow": async ({ proxy, load }) => {
    proxy.latencyMs = 50;
    await load.progress(4 * THREADS);
    proxy.latencyMs = 0;
  },
  "is throttled": async ({ proxy, load }) => {
    proxy.bytesPerSecond = 1_000;
    await load.progress(4 * THREADS);
    proxy.bytesPerSecond = Infinity;
  },
  "cuts replies in the middle": async ({ proxy, load }) => {
    // Each part of a reply of about five bytes in turn.
    for (let bytes = 1; bytes <= 12; bytes++) {
      proxy.cutAfterReplyBytes(bytes);
      await load.progress(THREADS);
    }
  },
  "resets connections": async ({ proxy, load }) => {
    for (let i = 0; i < 10; i++) {
      proxy.reset();
      await load.progress(THREADS);
    }
  },
  "closes connections": async ({ proxy, load }) => {
    for (let i = 0; i < 10; i++) {
      proxy.fin();
      await load.progress(THREADS);
    }
  },
  "refuses connects for a while": async (it) => {
    it.proxy.down();
    it.proxy.reset();
    await isCutOff(it);
    await it.proxy.up();
  },
};

for (const [what, provoke] of Object.entries(FAULTS)) {
  test(`a network that ${what} loses no acknowledged write and doubles none`, async (t) => {
    const it = await loaded(t);
    await provoke(it);
    await it.load.progress(100);
    await reckon(t, it);
  });
}
