import assert from "node:assert/strict";
import { test } from "node:test";
import { connected } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import { isReadAt } from "../support/reads.js";

const LIMIT = { timeout: 120_000 };
const INCR = "return redis.call('INCR', KEYS[1])";

test("scripts that write find the master after each failover, while replicas are read", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t, { replicas: 1 }, { readFrom: "replica" });
  const [master, replica] = [cluster.masters[0]!, cluster.replicas[0]!];
  const key = cluster.keyOn(0);
  const counter = `{${key}}n`;
  let count = 0;
  const write = async (): Promise<void> => {
    assert.equal(await redis.eval(INCR, 1, counter), ++count);
  };
  await write();
  await redis.set(key, "x");
  await eventually(() => isReadAt(replica, () => redis.get(key)), 10_000);
  for (const [promoted, demoted, isMapAllowed] of [
    [replica, master, true],
    [master, replica, false],
  ] as const) {
    await cluster.allowMap(isMapAllowed); // else it is asked for in vain while the redirections come
    await cluster.failOver(promoted);
    for (let i = 0; i < 20; i++) await write();
    await cluster.allowMap(true);
    await eventually(() => isReadAt(demoted, () => redis.get(key)), 30_000, "the demoted one is read");
    await write();
    assert.equal(Number(await promoted.admin.get(counter)), count);
  }
});

test("a script that says READONLY has the map asked for anew", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t);
  const key = cluster.keyOn(0);
  const asked = async (): Promise<number> => {
    const infos = await Promise.all(cluster.masters.map(({ admin }) => admin.info("commandstats")));
    return infos.reduce((sum, info) => sum + Number(/cmdstat_cluster\|slots:calls=(\d+)/.exec(info)?.[1] ?? 0), 0);
  };
  const before = await asked();
  const refused = redis.eval("return redis.error_reply('READONLY it is a replica now')", 1, key);
  await assert.rejects(refused, /READONLY/);
  await eventually(async () => (await asked()) > before, 10_000, "a node is asked for the map");
});
