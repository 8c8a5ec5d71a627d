import assert from "node:assert/strict";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { connect, type ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/soak-tasks.js";
import { eventually } from "../support/gate.js";
import { code, fixture, manage } from "../support/manage.js";
import { untilEachHasRun } from "../support/one-in-each.js";
import { type Proxy, startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const NAME = "redis.test";
const THREADS = 2;

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "redthread-dns-"));
  process.env["TEST_ZONE_FILE"] = join(folder, "zone.json");
  await resolve("127.0.0.1");
  // This is for this thread; the others get it by --import. From here on the zone answers instead of the host's resolver.
  await import(fixture("resolver").href);
});
after(() => rm(folder, { recursive: true, force: true }));

/** From now on the name leads to this address, or to none. */
async function resolve(address: string | null): Promise<void> {
  const zone = join(folder, "zone.json");
  await writeFile(`${zone}.new`, JSON.stringify({ [NAME]: address }));
  await rename(`${zone}.new`, zone); // atomic, because a thread may be reading
}

/** Two threads and the primary, all connected. */
async function connected(t: TestContext, server: RedisServer, port: number): Promise<ConnectionManager<typeof Tasks>> {
  const manager = manage<typeof Tasks>(t, server, {
    tasks: fixture("soak-tasks"),
    threads: { count: THREADS, execArgv: ["--import", fixture("resolver").href] },
    redis: { host: NAME, port, connectTimeoutMs: 1_000, commandTimeoutMs: 500, heartbeatMs: 500 },
  });
  await manager.ready();
  await untilEachHasRun(manager, () => manager.run("incr", "n"));
  assert.equal(manager.stats().connections.open, THREADS + 1);
  return manager;
}

const ENDS: Record<string, (server: RedisServer, path: Proxy) => unknown> = {
  crashes: (server) => server.kill(),
  "falls into a black hole": (_, path) => path.blackhole(true),
};

for (const [ends, end] of Object.entries(ENDS)) {
  test(`when a server ${ends} and its name leads to another address, every client follows the name`, async (t) => {
    await resolve("127.0.0.1");
    const [first, second] = await Promise.all([startRedis(), startRedis()]);
    const path = await startProxy(first.port);
    const newPath = await startProxy(second.port, { host: "127.0.0.2", port: path.port });
    const manager = await connected(t, second, path.port);
    t.after(async () => {
      path.close();
      newPath.close();
      await Promise.all([first.stop(), second.stop()]);
    });
    await end(first, path);
    await resolve("127.0.0.2");
    await second.waitForClients((clients) => clients.length === THREADS + 1, 15_000);
    await eventually(() => manager.stats().connections.open === THREADS + 1);
    assert.equal(await manager.run("incr", "n"), 1); // the counter of this server
  });
}

test("a name that does not resolve any more is CONNECT_FAILED with that cause, and all clients are back once it resolves again", async (t) => {
  await resolve("127.0.0.1");
  const server = await startRedis();
  const manager = await connected(t, server, server.port);
  t.after(() => server.stop());
  await resolve(null);
  await server.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await eventually(() => manager.stats().connections.open === 0 && manager.stats().breaker.state !== "closed");
  await assert.rejects(
    connect({ env: {}, redis: { host: NAME, port: server.port }, retry: { deadlineMs: 300 } }),
    (error: Error) => {
      assert.ok(code("CONNECT_FAILED")(error), String(error));
      assert.equal((error.cause as NodeJS.ErrnoException).code, "ENOTFOUND");
      return true;
    },
  );
  await resolve("127.0.0.1");
  await eventually(() => manager.stats().connections.open === THREADS + 1);
  const counted = Number(await server.admin.get("n"));
  assert.equal(await manager.run("incr", "n"), counted + 1);
});
