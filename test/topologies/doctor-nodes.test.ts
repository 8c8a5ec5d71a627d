import assert from "node:assert/strict";
import { test } from "node:test";
import { examine } from "../../src/cli/doctor.js";
import type { ConnectOptions } from "../../src/index.js";
import { Cluster } from "../support/cluster.js";
import { eventually } from "../support/gate.js";
import { freePort, startRedis } from "../support/redis-server.js";
import { NAME, startSentinel } from "../support/sentinel.js";

const LIMIT = { timeout: 60_000 };

test("the doctor checks each configured node of a Cluster, and masters that are not configured", LIMIT, async () => {
  await using cluster = await Cluster.start({ masters: 3 });
  const redis = { ...cluster.redis, connectTimeoutMs: 1_000, commandTimeoutMs: 1_000 };
  assert.equal((await examine({ env: {}, redis })).ok, true);
  const frozen = cluster.masters[2]!;
  const clusterNodes = redis.clusterNodes.filter(({ port }) => port !== frozen.port);
  frozen.freeze();
  try {
    assert.deepEqual(await failed({ env: {}, redis }), [`node 127.0.0.1:${frozen.port}`]);
    const told = await failed({ env: {}, redis: { ...redis, clusterNodes } });
    assert.deepEqual(told, [`node 127.0.0.1:${frozen.port}`]);
  } finally {
    frozen.thaw();
  }
});

test("the doctor tries what locks need in a Cluster", LIMIT, async () => {
  await using cluster = await Cluster.start({ masters: 3 });
  const redis = { ...cluster.redis, username: "app", password: "secret" };
  const locksWith = async (...rights: string[]) => {
    for (const { admin } of cluster.nodes)
      await admin.call("ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "&*", "+@all", ...rights);
    const { checks } = await examine({ env: {}, redis });
    return checks.find(({ check }) => check === "locks")!;
  };
  const allowed = await locksWith();
  assert.equal(allowed.status, "ok", allowed.found);
  assert.match(allowed.found, /DEL, SPUBLISH, SSUBSCRIBE, CLIENT INFO, CLIENT KILL$/);
  const { status, found } = await locksWith("-spublish", "-ssubscribe", "-client|info", "-client|kill");
  assert.equal(status, "warn", found);
  assert.match(
    found,
    /^refused: SPUBLISH: .*; CLIENT INFO: .*; CLIENT KILL: .*; SSUBSCRIBE: waiters look for a release/,
  );
});

test("the doctor reports a master that can be reached, but has lost the other nodes", LIMIT, async () => {
  await using cluster = await Cluster.start({ hasBus: true });
  await cluster.allowPartial();
  const [cutOff] = cluster.masters;
  cluster.bus.cut(cutOff!);
  const isTold = async (): Promise<void> =>
    assert.deepEqual(await failed({ env: {}, redis: cluster.redis }), [`node 127.0.0.1:${cutOff!.port}`]);
  await eventually(isTold, 30_000);
  cluster.bus.heal(cutOff!);
});

async function failed(options: ConnectOptions): Promise<(string | undefined)[]> {
  const { checks } = await examine(options);
  return checks.filter(({ status }) => status === "fail").map(({ found }) => /^node \S+/.exec(found)?.[0]);
}

test("the doctor asks each sentinel, and reports a missing majority", LIMIT, async (t) => {
  const master = await startRedis();
  t.after(() => master.stop());
  const started = await Promise.all([1, 2, 3].map(() => startSentinel(master)));
  t.after(() => Promise.all(started.map((one) => one.stop())));
  const sentinels = started.map(({ port }) => ({ host: "127.0.0.1", port }));
  const redis = { sentinels, sentinelName: NAME, connectTimeoutMs: 1_000 };
  const look = async (asked: typeof sentinels) => {
    const { checks } = await examine({ env: {}, redis: { ...redis, sentinels: asked } });
    return checks.find(({ check }) => check === "sentinels");
  };
  const status = async (): Promise<string | undefined> => (await look(sentinels))?.status;
  assert.equal(await status(), "ok");
  const other = await startSentinel({ port: await freePort() });
  t.after(() => other.stop());
  const seen = await look([{ host: "127.0.0.1", port: other.port }, ...sentinels]);
  assert.equal(seen?.status, "warn");
  assert.match(seen.found, new RegExp(`is 127.0.0.1:${master.port}; .*:${other.port} names 127.0.0.1:`));
  await started[0]!.kill();
  assert.equal(await status(), "warn");
  await started[1]!.kill();
  assert.equal(await status(), "fail");
});
