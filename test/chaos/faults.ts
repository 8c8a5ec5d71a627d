import { eventually } from "../support/gate.js";
import type { RedisServer } from "../support/redis-server.js";
import { type Fault, type Field, inTrouble, pause } from "./field.js";

const PROMOTED_MS = 30_000;
/** The fault lasts: clients must find the new master without help from the old one. */
const LASTS_ON_MS = 4_000;

export const between = (random: () => number, fromMs: number, toMs: number): Promise<void> =>
  pause(fromMs + random() * (toMs - fromMs));

/** The faults of a master in every topology. */
export function commonFaults(field: Field): Fault[] {
  return [
    {
      name: "kill",
      mayLose: true,
      provoke: ({ master, replica }) =>
        inTrouble(field, master, async () => {
          await master.kill();
          await promotedAndAfter(replica);
          await master.start();
        }),
    },
    {
      name: "kill-restart",
      mayLose: true,
      provoke: ({ master }, random) =>
        inTrouble(field, master, async () => {
          await master.kill();
          await between(random, 0, 800);
          await master.start();
        }),
    },
    {
      name: "freeze",
      mayLose: true,
      provoke: ({ master, replica }) =>
        inTrouble(field, master, async () => {
          master.freeze();
          await promotedAndAfter(replica).finally(() => master.thaw());
        }),
    },
    {
      name: "freeze-short",
      mayLose: true, // on a busy machine it may last longer than the node's timeout
      provoke: ({ master }, random) =>
        inTrouble(field, master, async () => {
          master.freeze();
          await between(random, 100, 600);
          master.thaw();
        }),
    },
    {
      name: "black-hole",
      mayLose: false,
      provoke: ({ master }, random) =>
        inTrouble(field, master, async () => {
          field.wayTo(master).blackhole(true);
          await between(random, 500, 4_000);
          field.wayTo(master).blackhole(false);
        }),
    },
    {
      name: "replica-killed",
      mayLose: false,
      provoke: ({ replica }, random) =>
        inTrouble(field, replica, async () => {
          await replica.kill();
          await between(random, 200, 2_500);
          await replica.start();
        }),
    },
    {
      name: "cut",
      mayLose: false,
      provoke: async ({ master }) => killClients(master),
    },
    {
      name: "acl-command",
      mayLose: false,
      provoke: async (_shard, random) => {
        await everywhere(field, "-incr");
        await between(random, 200, 800);
        await everywhere(field, "+@all");
      },
    },
    {
      name: "acl-channels",
      mayLose: false,
      provoke: async (_shard, random) => {
        await everywhere(field, "resetchannels"); // ends subscribed connections
        await between(random, 200, 1_500);
        await everywhere(field, "allchannels");
      },
    },
    {
      name: "acl-login",
      mayLose: field.sentinels.length > 0, // they log in as this user, too, and fail over
      provoke: async ({ master, replica }, random) => {
        const [nodes, old] = [[master, replica], "nopass"];
        await Promise.all(nodes.map(({ admin }) => admin.call("ACL", "SETUSER", "default", "resetpass", ">another")));
        await Promise.all(nodes.map(killClients));
        await between(random, 200, 1_500);
        await Promise.all(nodes.map(({ admin }) => admin.call("ACL", "SETUSER", "default", old)));
      },
    },
  ];
}

/** Resolves when the replica has been promoted. */
export async function isMaster({ admin }: RedisServer, deadlineMs = PROMOTED_MS): Promise<void> {
  const check = async (): Promise<boolean> => /role:master/.test(await admin.info("replication"));
  await eventually(check, deadlineMs, "the replica has been promoted");
}

export async function promotedAndAfter(replica: RedisServer): Promise<void> {
  await promoted(replica);
  await pause(LASTS_ON_MS);
}

/**
 * Servers on a busy machine may not agree in time: then the old master goes on, and the calls are judged all the same.
 */
export async function promoted(replica: RedisServer): Promise<void> {
  await isMaster(replica).catch((error: Error) => console.log(error.message));
}

async function killClients({ admin }: RedisServer): Promise<void> {
  await admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
  await admin.call("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes");
}

async function everywhere({ nodes }: Field, rule: string): Promise<void> {
  await Promise.all(nodes.map(({ admin }) => admin.call("ACL", "SETUSER", "default", rule)));
}
