import { traitOf } from "../commands/traits.js";
import type { QueuedCommand } from "../commands/ioredis.js";
import { NotInClusterError } from "../core/errors.js";

/** Their answer, or their effect, would be that of a single node, and the caller could not tell which. */
const OF_ALL_NODES = new Set(
  "scan keys dbsize randomkey flushall flushdb script function swapdb move failover".split(" "),
);

const OF_SHARDS = new Set(["ssubscribe", "sunsubscribe"]);

/** Whether the command is SSUBSCRIBE or SUNSUBSCRIBE, which go to the node that has the channel's slot. */
export function isSharded({ name }: QueuedCommand): boolean {
  return OF_SHARDS.has(name.toLowerCase());
}

/** Why this command cannot run in a Cluster, if so. `isPinned`: a WATCH has chosen the node. */
export function refusedInCluster(command: QueuedCommand, isPinned: boolean): NotInClusterError | undefined {
  const name = command.name.toLowerCase();
  if (OF_ALL_NODES.has(name)) return notInCluster(name, "it concerns all nodes, and is not sent to each");
  if (name === "sunsubscribe" && command.args.length === 0)
    return notInCluster(name, "it must name its channels, because each is on a node of its own");
  const trait = traitOf(name);
  if (trait === "multi" && !isPinned)
    return notInCluster(name, "its node is not known yet: WATCH a key first, or use multi() with its commands");
  if (trait === "select" && String(command.args[0]) !== "0") return notInCluster(name, "a Cluster has database 0 only");
  if (trait === "session" || trait === "monitor" || trait === "hello")
    return notInCluster(name, "it would change the connection to one node only");
  return undefined;
}

export function notInCluster(command: string, why: string): NotInClusterError {
  const message = `${command.toUpperCase()} cannot be sent to a Cluster: ${why}`;
  return new NotInClusterError(message, { outcome: "not-sent", command });
}

/** Where a command belongs, as a node says. */
export interface Redirection {
  /** MOVED, not ASK: the slot has a new owner. */
  readonly isMoved: boolean;
  readonly slot: number;
  /** Empty if it is the host of the node that said so. */
  readonly host: string;
  readonly port: number;
}

const REDIRECTION = /^(MOVED|ASK) (\d+) (.*):(\d+)$/;

export function redirectionOf({ message }: Error): Redirection | undefined {
  const [, kind, slot, host, port] = REDIRECTION.exec(message) ?? [];
  if (kind === undefined) return undefined;
  return { isMoved: kind === "MOVED", slot: Number(slot), host: host!, port: Number(port) };
}
