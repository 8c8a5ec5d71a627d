import { clientOf } from "../clients/open-client.js";
import type { ClusterClient } from "../cluster/client.js";
import type { Handle } from "../commands/handle.js";
import { Command, type RedisHandle } from "../commands/ioredis.js";
import { Client } from "../connection/client.js";

// Which connection of a client a lock's commands use. In a Cluster it has one for each node.

/** The most bytes of a connection's filters: numbers have at most 16 digits, and each of the two addresses 47 characters. */
export const FILTERS_BYTES = 128;
/** The same for a single server. */
export const ID_BYTES = 20;

const INFO = /^id=(\d+) addr=(\S+) laddr=(\S+) /;

export function isCluster(redis: object): boolean {
  return clusterOf(redis) !== undefined;
}

/** The hash slot of a Cluster. */
export function slotOf(key: string | Buffer): number | null {
  return new Command("get", [key]).getSlot();
}

/**
 * The handle whose connection the key's commands use. In a Cluster it is the handle of a node: what is sent with it in this
 * turn runs before what the client sends for the key then. Absent if no node is known to have the slot.
 */
export function nodeOf<T extends RedisHandle>(redis: T, key: string | Buffer): T | Handle | undefined {
  const cluster = clusterOf(redis);
  return cluster ? cluster.nodeOf(key) : redis;
}

/** By their streams, the filters with which CLIENT KILL finds connections of this thread, and never another client's. */
export class ConnectionFilters {
  readonly #known = new WeakMap<object, string>();

  /**
   * Of the connection that the key's commands use; empty if they are not known yet. The nodes of a Cluster give the same
   * numbers, and the slot may be another node's when the connection is to be ended. So there both ends of the connection
   * belong to the filters, as its node sees them.
   */
  of(redis: RedisHandle, key: string | Buffer): string {
    const node = nodeOf(redis, key);
    if (!node?.stream) return "";
    const { stream } = node;
    const known = this.#known.get(stream);
    if (known !== undefined) return known;
    this.#known.set(stream, ""); // not known yet, and the lock does not wait for it
    const asking = isCluster(redis) ? node.client("INFO").then(filtersIn) : node.client("ID").then((id) => `ID ${id}`);
    asking.then(
      (filters) => this.#known.set(stream, filters),
      () => {}, // an old server, or a user without the right, does not tell
    );
    return "";
  }
}

function filtersIn(info: unknown): string {
  const [, id, addr, laddr] = INFO.exec(String(info)) ?? [];
  const filters = `ID ${id} ADDR ${addr} LADDR ${laddr}`;
  return id !== undefined && filters.length <= FILTERS_BYTES ? filters : "";
}

function clusterOf(redis: object): ClusterClient | undefined {
  const client = clientOf(redis as RedisHandle);
  return client instanceof Client ? undefined : client;
}
