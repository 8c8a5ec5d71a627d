import { traitOf } from "../commands/traits.js";
import type { QueuedCommand } from "../commands/ioredis.js";
import { NotInClusterError } from "../core/errors.js";

/** Their answer, or their effect, would be that of one node only, and which one nobody could say. */
const OF_ALL_NODES = new Set(
  "scan keys dbsize randomkey flushall flushdb script function swapdb move failover".split(" "),
);
const OF_SHARDS = new Set("ssubscribe sunsubscribe".split(" "));
const OF_CHANNELS = new Set("subscribe psubscribe unsubscribe punsubscribe".split(" "));

/** SUBSCRIBE and its like: on one node, and the whole Cluster's messages come there. */
export function isOfChannels(command: QueuedCommand): boolean {
  return traitOf(command.name) === "subscription" && OF_CHANNELS.has(command.name.toLowerCase());
}

/** SSUBSCRIBE and SUNSUBSCRIBE: at the node that has the channel's slot. */
export function isOfShards(command: QueuedCommand): boolean {
  return traitOf(command.name) === "subscription" && OF_SHARDS.has(command.name.toLowerCase());
}

/** Why this command cannot run in a Cluster, if so. `isPinned`: a WATCH has chosen the node. */
export function refusedInCluster(command: QueuedCommand, isPinned: boolean): NotInClusterError | undefined {
  const name = command.name.toLowerCase();
  if (OF_ALL_NODES.has(name)) return notInCluster(name, "it concerns all nodes, and is not sent to each");
  if (name === "sunsubscribe" && command.args.length === 0)
    return notInCluster(name, "it has to say which channels, each is at a node of its own");
  const trait = traitOf(name);
  if (trait === "multi" && !isPinned)
    return notInCluster(name, "its node is not known yet: WATCH a key first, or use multi() with its commands");
  if (trait === "select" && String(command.args[0]) !== "0") return notInCluster(name, "there is database 0 only");
  if (trait === "session" || trait === "monitor" || trait === "hello")
    return notInCluster(name, "it would change the connection to one node only");
  return undefined;
}

export function notInCluster(command: string, why: string): NotInClusterError {
  const message = `${command.toUpperCase()} cannot be sent to a Cluster: ${why}`;
  return new NotInClusterError(message, { outcome: "not-sent", command });
}

/** Where a node says that the command belongs. */
export interface Redirection {
  readonly isMoved: boolean;
  readonly slot: number;
  /** Empty: the host of the node that said so. */
  readonly host: string;
  readonly port: number;
}

const REDIRECTION = /^(MOVED|ASK) (\d+) (.*):(\d+)$/;

export function redirectionOf({ message }: Error): Redirection | undefined {
  const [, kind, slot, host, port] = REDIRECTION.exec(message) ?? [];
  if (kind === undefined) return undefined;
  return { isMoved: kind === "MOVED", slot: Number(slot), host: host!, port: Number(port) };
}
