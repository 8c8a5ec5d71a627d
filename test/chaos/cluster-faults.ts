import { eventually } from "../support/gate.js";
import { type RedisServer, untilInSync } from "../support/redis-server.js";
import type { ClusterField } from "./cluster-field.js";
import { between, commonFaults, isMaster, promotedAndAfter } from "./faults.js";
import { type Fault, inTrouble, type Shard } from "./field.js";

/** So many slots are moved at once. */
const MOVED = 40;
const ASK_AGAIN_MS = 6_000;

/** Faults of a Cluster only. */
export function clusterFaults(field: ClusterField): Fault[] {
  const { bus } = field.cluster;
  return [
    ...commonFaults(field),
    failover("failover", false),
    failover("failover-force", true, "FORCE"),
    failover("failover-takeover", true, "TAKEOVER"),
    { name: "reshard", mayLose: false, provoke: (shard, random) => reshard(field, shard, random) },
    {
      name: "bus-cut",
      mayLose: true,
      // A message that is published off the bus stays there, and nobody can notice the gap.
      provoke: ({ master, replica }) =>
        inTrouble(field, master, async () => {
          bus.cut(master);
          await promotedAndAfter(replica).finally(() => bus.heal(master));
        }),
    },
    {
      name: "replica-removed",
      mayLose: false,
      provoke: ({ master, replica }, random) =>
        removed(field, replica, async (id) => {
          await between(random, 500, 2_000);
          await meet(field, replica);
          await replicate(replica, String(await master.admin.cluster("MYID")), id);
        }),
    },
    {
      name: "master-added",
      mayLose: false,
      provoke: (shard) => removed(field, shard.replica, (id) => asMaster(field, shard, id)),
    },
  ];
}

const failover = (name: string, mayLose: boolean, ...how: string[]): Fault => ({
  name,
  mayLose,
  isGraceful: !mayLose,
  provoke: async ({ replica }) => {
    // The masters vote only once in a while: a refused request is repeated.
    const asked = async (): Promise<void> => {
      await replica.admin.call("CLUSTER", "FAILOVER", ...how).catch(() => {});
      await isMaster(replica, ASK_AGAIN_MS);
    };
    await eventually(asked, 60_000, `${name} is done`);
  },
});

/** Some slots of the shard move to another shard, one after the other, with their keys. */
async function reshard(field: ClusterField, shard: Shard, random: () => number): Promise<void> {
  const others = (await field.shards()).filter(({ master }) => master !== shard.master);
  const to = others[Math.floor(random() * others.length)]!.master;
  await moveSlots(field, firstSlots(shard), shard.master, to);
}

function firstSlots({ slots }: Shard): number[] {
  return slots
    .flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, i) => first + i))
    .slice(0, MOVED);
}

async function moveSlots(field: ClusterField, slots: number[], from: RedisServer, to: RedisServer): Promise<void> {
  const [fromId, toId] = [String(await from.admin.cluster("MYID")), String(await to.admin.cluster("MYID"))];
  const masters = (await field.shards()).map(({ master }) => master);
  for (const slot of slots) {
    await to.admin.call("CLUSTER", "SETSLOT", slot, "IMPORTING", fromId);
    await from.admin.call("CLUSTER", "SETSLOT", slot, "MIGRATING", toId);
    for (;;) {
      const keys = (await from.admin.call("CLUSTER", "GETKEYSINSLOT", slot, 100)) as string[];
      if (keys.length === 0) break;
      // A node that has just become a master serves no client for a moment.
      const sent = (): Promise<boolean> =>
        from.admin.call("MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", ...keys).then(() => true);
      await eventually(sent, 20_000, "keys are moved");
    }
    for (const node of new Set([to, from, ...masters])) await node.admin.call("CLUSTER", "SETSLOT", slot, "NODE", toId);
  }
  for (const { id, cmd } of await to.clients()) if (cmd === "restore-asking") await to.admin.client("KILL", "ID", id);
}

/** Takes a replica out of the Cluster while `meanwhile` runs. */
async function removed(
  field: ClusterField,
  replica: RedisServer,
  meanwhile: (id: string) => Promise<void>,
): Promise<void> {
  const id = String(await replica.admin.cluster("MYID"));
  await inTrouble(field, replica, async () => {
    await replica.admin.call("CLUSTER", "RESET", "SOFT");
    await Promise.all(allBut(field, replica).map(({ admin }) => admin.call("CLUSTER", "FORGET", id).catch(() => {})));
    await meanwhile(id);
  });
}

/** A node joins as a master, has some slots for a moment, gives them back and becomes a replica again. */
async function asMaster(field: ClusterField, shard: Shard, id: string): Promise<void> {
  const { master, replica } = shard;
  await meet(field, replica);
  await eventually(() => field.isAgreed(), 60_000, "every node knows the new one");
  const slots = firstSlots(shard);
  await moveSlots(field, slots, master, replica);
  await moveSlots(field, slots, replica, master);
  await replicate(replica, String(await master.admin.cluster("MYID")), id);
}

/** A node that was forgotten is ignored for a minute, unless it is met again. */
async function meet(field: ClusterField, node: RedisServer): Promise<void> {
  for (const { admin } of allBut(field, node)) {
    await admin.call("CLUSTER", "MEET", "127.0.0.1", node.port, await busPortOf(node));
  }
}

async function replicate(replica: RedisServer, master: string, id: string): Promise<void> {
  const tried = (): Promise<boolean> => replica.admin.call("CLUSTER", "REPLICATE", master).then(() => true);
  await eventually(tried, 60_000, `${id} is a replica again`);
  await untilInSync(replica);
}

function allBut(field: ClusterField, node: RedisServer): RedisServer[] {
  return field.nodes.filter((other) => other !== node);
}

async function busPortOf({ admin }: RedisServer): Promise<number> {
  const nodes = String(await admin.cluster("NODES"));
  return Number(/@(\d+)\S* myself/.exec(nodes)![1]);
}
