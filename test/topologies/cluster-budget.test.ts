import assert from "node:assert/strict";
import { test } from "node:test";
import { managed } from "../support/clustered.js";
import { eventually } from "../support/gate.js";

const LIMIT = { timeout: 120_000 };
const CALLERS = 4;
const LEASES_PER_CALLER = 25;

test("with fewer permits than nodes times clients, leases and shared clients are served in turn", LIMIT, async (t) => {
  const max = 6;
  const [manager, cluster] = await managed(t, {}, { connections: { max } });
  await manager.ready();
  const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
  let most = 0;
  const watching = setInterval(() => void cluster.connections().then((open) => (most = Math.max(most, open))), 20);
  let writes = 0;
  let isOver = false;
  const call = async (task: "incr" | "incrDedicated"): Promise<void> => {
    await manager.run(task, keys[++writes % keys.length]!);
  };
  const shared = each(async () => {
    while (!isOver) await call("incr");
  });
  await each(async () => {
    for (let i = 0; i < LEASES_PER_CALLER; i++) await call("incrDedicated");
  }).finally(() => (isOver = true));
  await shared.finally(() => clearInterval(watching));
  const redis = await manager.getRedis();
  const counts = await Promise.all(keys.map((key) => redis.get(key)));
  assert.equal(
    counts.map(Number).reduce((sum, count) => sum + count),
    writes,
  );
  assert.ok(most <= max, `${most} connections of at most ${max}`);
});

test(
  "a lease that is busy on one node gives up its connections to the others when a caller waits",
  LIMIT,
  async (t) => {
    const dedicated = { acquireTimeoutMs: 10_000 };
    const [manager, cluster] = await managed(t, {}, { connections: { max: 7 }, dedicated });
    await manager.ready();
    const keys = [0, 1, 2].map((shard) => cluster.keyOn(shard));
    const list = cluster.keyOn(0, "list");
    const holding = manager.run("hold", { keys, list });
    await eventually(async () => (await blocked(cluster.masters[0]!)) === 1, 10_000);
    assert.equal(await manager.run("incrDedicated", keys[1]!), 2);
    await cluster.masters[0]!.admin.rpush(list, "go");
    assert.equal(await holding, "go");
  },
);

async function each(caller: () => Promise<void>): Promise<void> {
  await Promise.all(Array.from({ length: CALLERS }, caller));
}

async function blocked({ admin }: { admin: { info(section: string): Promise<string> } }): Promise<number> {
  return Number(/blocked_clients:(\d+)/.exec(await admin.info("clients"))?.[1]);
}
