import assert from "node:assert/strict";
import { test } from "node:test";
import type { RedisHandle } from "../../src/commands/ioredis.js";
import type { Cluster } from "../support/cluster.js";
import { connected } from "../support/clustered.js";
import { eventually } from "../support/gate.js";
import { isReadAt } from "../support/reads.js";
import type { RedisServer } from "../support/redis-server.js";

const LIMIT = { timeout: 120_000 };
const INCR = "return redis.call('INCR', KEYS[1])";

test(
  "a replica that was down is read again, and scripts that write find the master after each failover",
  LIMIT,
  async (t) => {
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
    await outOfMapAndBack(redis, key, replica, cluster);
    for (const [promoted, demoted, isMapAllowed] of [
      [replica, master, true],
      [master, replica, false],
    ] as const) {
      await cluster.allowMap(isMapAllowed); // without it only redirections tell of the failover
      await cluster.failOver(promoted);
      for (let i = 0; i < 20; i++) await write();
      await cluster.allowMap(true);
      await eventually(() => isReadAt(demoted, () => redis.get(key)), 30_000, "the demoted node is read");
      await write();
      assert.equal(Number(await promoted.admin.get(counter)), count);
    }
  },
);

/** How often the masters were asked for the map. */
async function asked({ masters }: Cluster): Promise<number> {
  const infos = await Promise.all(masters.map(({ admin }) => admin.info("commandstats")));
  return infos.reduce((sum, info) => sum + Number(/cmdstat_cluster\|slots:calls=(\d+)/.exec(info)?.[1] ?? 0), 0);
}

/** Kills the replica until the client has a map without it: no answer contradicts that map when the replica is back. */
async function outOfMapAndBack(redis: RedisHandle, key: string, replica: RedisServer, cluster: Cluster): Promise<void> {
  await replica.kill();
  const isInNone = async (): Promise<boolean> => {
    const maps = await Promise.all(cluster.masters.map(({ admin }) => admin.call("CLUSTER", "SLOTS")));
    return !JSON.stringify(maps).includes(String(replica.port));
  };
  await eventually(isInNone, 30_000, "no master has it in its map");
  const before = await asked(cluster);
  const isAsked = async (): Promise<boolean> => (await redis.get(key)) === "x" && (await asked(cluster)) > before;
  await eventually(isAsked, 20_000, "the client has a map without it");
  await cluster.rejoin(replica);
  await eventually(() => isReadAt(replica, () => redis.get(key)), 30_000, "the replica is read again");
}

test("after a script that fails with READONLY the map is asked for again", LIMIT, async (t) => {
  const [redis, cluster] = await connected(t);
  const key = cluster.keyOn(0);
  const before = await asked(cluster);
  const refused = redis.eval("return redis.error_reply('READONLY it is a replica now')", 1, key);
  await assert.rejects(refused, /READONLY/);
  await eventually(async () => (await asked(cluster)) > before, 10_000, "a node is asked for the map");
});
