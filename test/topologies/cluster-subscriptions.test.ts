import assert from "node:assert/strict";
import { test } from "node:test";
import { managed } from "../support/clustered.js";
import { eventually } from "../support/gate.js";

const LIMIT = { timeout: 200_000 };

test("subscriptions of every kind follow their slots and nodes in forced failovers", LIMIT, async (t) => {
  const [manager, cluster] = await managed(t, { replicas: 1 });
  const channels = [0, 1, 2].map((shard) => cluster.keyOn(shard, "sharded"));
  const heard: string[] = [];
  const gaps = new Map<string, number>();
  const subscribe = (channel: string, options: object): Promise<unknown> =>
    manager.subscribe(channel, (message) => heard.push(`${message} on ${channel}`), {
      ...options,
      onGap: () => gaps.set(channel, (gaps.get(channel) ?? 0) + 1),
    });
  for (const channel of channels) await subscribe(channel, { sharded: true });
  await subscribe("plain", {});
  await subscribe("pla*", { pattern: true });
  const redis = await manager.getRedis();
  let published = 0;
  const allAreHeard = async (after: string): Promise<void> => {
    const isHeard = async (channel: string): Promise<boolean> => {
      const message = `${++published} after ${after}`;
      if (channels.includes(channel)) await redis.spublish(channel, message);
      else await redis.publish("plain", message);
      await eventually(() => heard.includes(`${message} on ${channel}`), 500);
      return true;
    };
    for (const channel of [...channels, "plain", "pla*"])
      await eventually(() => isHeard(channel), 30_000, `${channel} is heard after ${after}`);
  };
  await allAreHeard("the start");
  for (const how of ["FORCE", "TAKEOVER", "FORCE"]) {
    for (const shard of [0, 1, 2]) {
      const owner = await cluster.ownerOf(shard, cluster.masters[0]!);
      const replica = [cluster.masters[shard]!, cluster.replicas[shard]!].find(({ port }) => port !== owner);
      // The masters vote only once in a while: a failover that was not granted is asked for again.
      const failOver = async (): Promise<void> => {
        await replica!.admin.call("CLUSTER", "FAILOVER", how).catch(() => {});
        await eventually(async () => /role:master/.test(await replica!.admin.info("replication")), 6_000);
      };
      await eventually(failOver, 60_000, `${how} of shard ${shard}`);
      await allAreHeard(`${how} of shard ${shard}`);
    }
  }
  for (const channel of channels) assert.ok(gaps.has(channel), `the gap of ${channel} is told`);
});

test("a subscription that has moved is not asked for at its old node again", LIMIT, async (t) => {
  const lines: string[] = [];
  const note = (message: string, fields?: object): void => void lines.push(message + JSON.stringify(fields));
  const [manager, cluster] = await managed(t, {}, { logger: { debug: note, info: note, warn: note, error: note } });
  const [from, to] = cluster.masters;
  const channel = cluster.keyOn(0, "moved");
  const heard: string[] = [];
  await manager.subscribe(channel, (message) => heard.push(message), { sharded: true });
  await cluster.moveSlot(channel, from!, to!);
  const isHeard = async (message: string): Promise<boolean> => {
    await to!.admin.spublish(channel, message);
    return heard.includes(message);
  };
  await eventually(() => isHeard("moved"), 20_000);
  const ofSubscriber = async (): Promise<string | undefined> =>
    (await from!.clients()).find(({ name }) => name.endsWith(":subscriber"))?.id;
  const before = await ofSubscriber();
  await from!.admin.client("KILL", "ID", before!);
  const isBack = async (): Promise<boolean> => ![undefined, before].includes(await ofSubscriber());
  await eventually(isBack, 20_000, "its connection is back");
  await eventually(() => lines.some((line) => line.includes("connecting") && line.includes("completed")), 20_000);
  await eventually(() => isHeard("still there"), 20_000);
  assert.deepEqual(
    lines.filter((line) => line.includes("subscribing again")),
    [],
  );
});
