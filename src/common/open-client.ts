import { Client } from "./client.js";
import { ClusterClient } from "./cluster-client.js";
import type { ClusterOptions } from "./cluster-nodes.js";
import type { RedisHandle } from "./handle.js";

/** A client of one server, or of a Cluster. */
export type AnyClient = Client | ClusterClient;
export type OpenOptions = ClusterOptions;

const clients = new WeakMap<object, AnyClient>();

/** One that is not connected yet, as the options say where Redis is. */
export function makeClient(options: OpenOptions, closeMs: number): AnyClient {
  const client = options.redis.clusterNodes ? new ClusterClient(options, closeMs) : new Client(options);
  clients.set(client.redis, client);
  return client;
}

/** A connected client; after a failure or an abort nothing is left open. */
export async function openClient(options: OpenOptions, closeMs: number, signal?: AbortSignal): Promise<AnyClient> {
  const client = makeClient(options, closeMs);
  try {
    await client.connect(signal);
    return client;
  } catch (error) {
    await client.close(closeMs);
    throw error;
  }
}

/** The client behind a handle, if it is one of ours. */
export function clientOf(redis: RedisHandle): AnyClient | undefined {
  return clients.get(redis);
}
