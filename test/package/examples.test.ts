import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { eventually } from "../support/gate.js";
import { Program } from "../support/program.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const DEADLINE = { timeout: 150_000 };
const WAIT_MS = 40_000;
/** From the build folder to the sources, where the examples are run as they stand. */
const EXAMPLES = new URL("../../../docs/examples/", import.meta.url);

async function redis(t: TestContext): Promise<RedisServer> {
  const server = await startRedis();
  t.after(() => server.stop());
  return server;
}

function start(t: TestContext, server: RedisServer, name: string, args: string[] = []): Program {
  const env = {
    PATH: process.env["PATH"],
    REDIS_URL: server.url,
    LOG_LEVEL: "warn",
    PORT: "0",
    LAME_DUCK_MS: "4000",
    REDTHREAD_SHUTDOWN_CANCEL_GRACE_MS: "50",
    // They run what is published, whose maps are too coarse to count lines by. Left out, node would put it back in.
    NODE_V8_COVERAGE: "",
  };
  return new Program(t, new URL(name, EXAMPLES), args, { env });
}

test(
  "docs/examples/express answers, tells its health, and ends at SIGTERM without cutting anybody off",
  DEADLINE,
  async (t) => {
    const server = await redis(t);
    const service = start(t, server, "express/main.mjs");
    const { listening } = await service.hears("listening", WAIT_MS);
    const get = async (path: string): Promise<{ status: number; body: Record<string, unknown> }> => {
      const response = await fetch(`http://127.0.0.1:${String(listening)}${path}`);
      return { status: response.status, body: (await response.json()) as Record<string, unknown> };
    };
    assert.deepEqual((await get("/ready")).body, { live: true, ready: true, reasons: [] });
    const first = await get("/digest/abc");
    assert.equal(first.body["cached"], false);
    assert.deepEqual((await get("/digest/abc")).body, { ...first.body, cached: true });
    await server.admin.rpush("digest:1:wrong", "not a string"); // a task's own failure
    assert.deepEqual(await get("/digest/wrong?rounds=1"), { status: 500, body: { error: "INTERNAL" } });

    const slow = get("/digest/slow?rounds=300000");
    await eventually(async () => (await get("/live")).status === 200);
    service.signal("SIGTERM");
    await eventually(async () => (await get("/ready")).status === 503, WAIT_MS, "it says that it is not ready");
    assert.equal((await get("/live")).status, 200);
    assert.equal((await get("/digest/lame-duck")).status, 200);
    assert.equal((await slow).status, 200);
    const stopped = await service.hears("stopped", WAIT_MS);
    assert.equal((stopped["tasks"] as { abandoned: number }).abandoned, 0);
    assert.equal((await service.exit).code, 0, service.transcript);
    assert.deepEqual(await server.clients(), []);
  },
);

test(
  "docs/examples/express: a client that hangs up during a long computation costs nobody else theirs",
  DEADLINE,
  async (t) => {
    const server = await redis(t);
    const service = start(t, server, "express/main.mjs");
    const { listening } = await service.hears("listening", WAIT_MS);
    const get = async (path: string, signal?: AbortSignal): Promise<number> => {
      const response = await fetch(`http://127.0.0.1:${String(listening)}${path}`, signal ? { signal } : {});
      return response.status;
    };
    for (let i = 0; i < 20; i++) assert.equal(await get(`/digest/warm-${i}`), 200); // digests are known to be quick
    server.freeze(); // all of them begin, and wait for their replies
    const leaving = new AbortController();
    const slow = get("/digest/slow?rounds=400000", leaving.signal); // longer than the grace, in one go
    const others = Array.from({ length: 50 }, (_, i) => get(`/digest/other-${i}`));
    for (let i = 0; i < 50; i++) assert.equal(await get("/live"), 200);
    server.thaw();
    const asked = async (): Promise<boolean> => /cmdstat_get:calls=71,/.test(await server.admin.info("commandstats"));
    await eventually(asked, WAIT_MS, "the server has answered all of them");
    leaving.abort();
    await assert.rejects(slow, { name: "AbortError" });
    assert.deepEqual([...new Set(await Promise.all(others))], [200]);
    service.signal("SIGTERM");
    assert.equal((await service.exit).code, 0, service.transcript);
  },
);

test(
  "docs/examples/bullmq works off what was enqueued, and ends at SIGTERM with nothing left open",
  DEADLINE,
  async (t) => {
    const server = await redis(t);
    const worker = start(t, server, "bullmq/worker.mjs");
    await worker.hears("ready", WAIT_MS);
    const enqueue = start(t, server, "bullmq/enqueue.mjs", ["some", "words"]);
    assert.equal((await enqueue.exit).code, 0, enqueue.transcript);
    const digests = await server.admin.hgetall("digests");
    assert.deepEqual(
      enqueue.said,
      ["some", "words"].map((word) => ({ word, digest: digests[word] })),
    );
    worker.signal("SIGTERM");
    assert.deepEqual(await worker.hears("stopped", WAIT_MS), { stopped: "SIGTERM" });
    const { code, stderr } = await worker.exit;
    assert.deepEqual([code, stderr], [0, ""]);
    assert.deepEqual(await server.clients(), []);
  },
);

test(
  "docs/examples/locks: of two processes one computes for longer than its ttl, and both have its result",
  DEADLINE,
  async (t) => {
    const server = await redis(t);
    const programs = [1, 2].map(() => start(t, server, "locks/main.mjs", ["2026-01-31"]));
    for (const { exit } of programs) {
      const { code, stderr } = await exit;
      assert.deepEqual([code, stderr], [0, ""]);
    }
    const reports = programs.map(({ said }) => said[0]!);
    assert.equal(reports.filter(({ isComputed }) => isComputed).length, 1);
    assert.equal(reports[0]!["digest"], reports[1]!["digest"]);
    assert.equal(await server.admin.exists("lock:report:2026-01-31"), 0);
    assert.deepEqual(await server.clients(), []);
  },
);
