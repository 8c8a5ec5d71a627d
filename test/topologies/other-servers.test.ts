import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { examine } from "../../src/cli/doctor.js";
import type { ConnectionManager, ManagerOptions } from "../../src/index.js";
import { Cluster } from "../support/cluster.js";
import { code, fixture, manage } from "../support/manage.js";
import { freePort, startRedis, type RedisServer, untilInSync } from "../support/redis-server.js";
import { NAME, startSentinel } from "../support/sentinel.js";

const LIMIT = { timeout: 60_000 };
const HOST = "127.0.0.1";
let server: RedisServer;
before(async () => {
  server = await startRedis();
});
after(() => server.stop());

interface Look {
  readonly manager: ConnectionManager;
  readonly warnings: readonly unknown[];
  /** The checks of the doctor that are not ok, with their advice. */
  readonly doctor: string;
  readonly ok: boolean;
}

async function look(t: TestContext, redis: ManagerOptions["redis"]): Promise<Look> {
  const warnings: unknown[] = [];
  const warn = (message: string, fields?: unknown): number => warnings.push([message, fields]);
  const logger = { debug() {}, info() {}, error() {}, warn };
  const manager = manage(t, server, { tasks: fixture("tasks"), redis, threads: { count: 1 }, logger });
  const { ok, checks } = await examine({ env: {}, redis: { ...redis } });
  const lines = checks.filter(({ status }) => status === "fail" || status === "warn");
  const doctor = lines.map(({ check, status, found, advice }) => `${check} ${status}: ${found} -> ${advice}`);
  return { manager, warnings, doctor: doctor.join("\n"), ok };
}

test(
  "a replica is ready, because it can be read, with one warning, which the doctor gives as well",
  LIMIT,
  async (t) => {
    const replica = await startRedis({ args: ["--replicaof", HOST, String(server.port)] });
    t.after(() => replica.stop());
    await untilInSync(replica);
    const { manager, warnings, doctor, ok } = await look(t, { port: replica.port });
    await manager.ready();
    assert.deepEqual(warnings, [["the server is a replica: writes are READONLY", { role: "replica" }]]);
    assert.equal(await (await manager.getRedis()).get("k"), null);
    assert.equal(ok, true);
    assert.match(doctor, /^server warn: .* standalone, slave -> a replica refuses writes \(READONLY\)/);
  },
);

test("the address of a Sentinel as a server is an invalid configuration", LIMIT, async (t) => {
  const sentinel = await startSentinel(server);
  t.after(() => sentinel.stop());
  const { manager, doctor, ok } = await look(t, { port: sentinel.port });
  const listed = await look(t, { port: undefined, clusterNodes: [{ host: HOST, port: sentinel.port }] });
  await assert.rejects(listed.manager.ready(), /^ConfigInvalidError: .* single server or a Sentinel$/);
  await assert.rejects(manager.ready(), (error: Error & { problems?: string[] }) => {
    assert.ok(code("CONFIG_INVALID")(error), String(error));
    assert.match(error.message, new RegExp(`^a Sentinel is at ${HOST}:${sentinel.port}: name it in redis.sentinels`));
    assert.deepEqual(error.problems, [error.message]);
    return true;
  });
  assert.equal(ok, false);
  assert.match(doctor, /^server fail: .*sentinel.* -> this is a Sentinel/m);
});

test("so is the address of a server as a sentinel, or as a node, at once", LIMIT, async (t) => {
  const listed = [{ host: HOST, port: server.port }];
  for (const { redis, told, advised } of [
    {
      redis: { port: undefined, sentinels: listed, sentinelName: NAME },
      told: `redis.sentinels: no sentinel is at ${HOST}:${server.port}, but a server`,
      advised: /^sentinels fail: redis\.sentinels: no sentinel is at .* -> check redis\.sentinels/,
    },
    {
      redis: { port: undefined, clusterNodes: listed },
      told: `redis.clusterNodes: no node of a Cluster is at ${HOST}:${server.port}, but a single server or a Sentinel`,
      advised: /^reachability fail: node .* is a single server -> name a single server by redis\.host/,
    },
  ]) {
    const { manager, doctor, ok } = await look(t, redis);
    await assert.rejects(manager.ready(), (error: Error) => {
      assert.ok(code("CONFIG_INVALID")(error), String(error));
      assert.equal(error.message, told);
      return true;
    });
    assert.equal(ok, false);
    assert.match(doctor, advised);
  }
});

test("a node of a Cluster without redis.clusterNodes is ready, with a warning; the doctor fails it if there are others", async (t) => {
  for (const masters of [1, 2]) {
    await using cluster = await Cluster.start({ masters });
    const { manager, warnings, doctor, ok } = await look(t, { port: cluster.masters[0]!.port });
    await manager.ready();
    assert.equal(warnings.length, 1);
    assert.match(
      String(warnings),
      /^the server is a node of a Cluster: keys of others are MOVED without redis\.clusterNodes/,
    );
    assert.equal(ok, masters === 1);
    assert.match(
      doctor,
      new RegExp(`^server ${ok ? "warn" : "fail"}: .*, cluster_size ${masters} -> .*redis\\.clusterNodes`),
    );
    await manager.shutdown();
  }
});

test("the doctor fails a Cluster that does not serve, however it is configured", LIMIT, async (t) => {
  // Its slots have no owner.
  const args = ["--cluster-enabled", "yes", "--cluster-port", String(await freePort())];
  await using alone = await startRedis({ args });
  const single = await look(t, { port: alone.port });
  assert.equal(single.ok, false);
  assert.match(single.doctor, /^server fail: .*, cluster_state fail, cluster_size \d -> /);
  const { ok, doctor } = await look(t, { port: undefined, clusterNodes: [{ host: HOST, port: alone.port }] });
  assert.equal(ok, false);
  assert.match(doctor, /^reachability fail: node .* says that the Cluster is down/);
});

test("for a Cluster without slots ready() rejects with a code", LIMIT, async (t) => {
  const args = ["--cluster-enabled", "yes", "--cluster-port", String(await freePort())];
  await using alone = await startRedis({ args });
  const redis = { port: undefined, clusterNodes: [{ host: HOST, port: alone.port }] };
  const retry = { deadlineMs: 300 };
  const manager = manage(t, server, { tasks: fixture("tasks"), redis, retry, threads: { count: 1 } });
  await assert.rejects(manager.ready(), code("CONNECT_FAILED"));
});

test("an error about a Sentinel's socket names its path", LIMIT, async (t) => {
  const sentinel = await startSentinel(server, { lines: ["unixsocket s"] });
  t.after(() => sentinel.stop());
  const path = join(sentinel.folder, "s");
  const { manager } = await look(t, { port: undefined, path });
  await assert.rejects(manager.ready(), (error: Error) => error.message.startsWith(`a Sentinel is at ${path}: `));
});
