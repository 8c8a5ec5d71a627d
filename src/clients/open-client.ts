import type { ClusterClient } from "../cluster/client.js";
import type { ClusterOptions } from "../cluster/nodes.js";
import type { RedisHandle } from "../commands/ioredis.js";
import { ownWrites } from "../commands/own-writes.js";
import { Client } from "../connection/client.js";

/** A client of one server, or of a Cluster. */
export type AnyClient = Client | ClusterClient;
export type OpenOptions = ClusterOptions;

const clients = new WeakMap<object, AnyClient>();

/** A function that makes clients which are not connected yet. The code for a Cluster or a `keyPrefix` is loaded only where the options need it. */
export async function clientMaker(options: OpenOptions, closeMs: number): Promise<() => AnyClient> {
  await ownWrites.ready;
  const Cluster = options.redis.clusterNodes && (await import("../cluster/client.js")).ClusterClient;
  const KeyPositions = options.redis.keyPrefix
    ? (await import("../commands/key-positions.js")).KeyPositions
    : undefined;
  return () => {
    const client = Cluster ? new Cluster(options, closeMs) : new Client({ ...options, KeyPositions });
    clients.set(client.redis, client);
    return client;
  };
}

/**
 * A connected client; after a failure or an abort nothing is left open. With `mayBeAway`, while the server is known to be
 * away, the client is returned while it still seeks the server: its commands wait for their own deadlines. A Cluster is always
 * connected first, because the loss of one node does not make it unavailable.
 */
export async function openClient(
  options: OpenOptions,
  closeMs: number,
  signal?: AbortSignal,
  mayBeAway = false,
): Promise<AnyClient> {
  const client = (await clientMaker(options, closeMs))();
  if (!mayBeAway || !(client instanceof Client) || !options.gate.explain())
    return connectOrClose(client, closeMs, signal);
  client.seek();
  return client;
}

export async function connectOrClose(client: AnyClient, closeMs: number, signal?: AbortSignal): Promise<AnyClient> {
  try {
    await client.connect(signal);
    return client;
  } catch (error) {
    await client.close(closeMs);
    throw error;
  }
}

/** The client behind a handle, if this package made it. */
export function clientOf(redis: RedisHandle): AnyClient | undefined {
  return clients.get(redis);
}
