import type { ManagerOptions } from "../../src/index.js";
import type { Proxy } from "../support/proxy.js";
import type { RedisServer } from "../support/redis-server.js";

/** A master with its replica. */
export interface Shard {
  readonly master: RedisServer;
  readonly replica: RedisServer;
  /** First and last of each range; none outside of a Cluster. */
  readonly slots: readonly (readonly [number, number])[];
}

/** The part of a plain ioredis client that is used here. */
export interface PlainClient {
  incr(key: string): Promise<number>;
  disconnect(): void;
}

/** The servers of one topology, each behind a proxy. */
export interface Field {
  readonly nodes: readonly RedisServer[];
  readonly sentinels: readonly RedisServer[];
  /** Value of the option `redis`. */
  readonly redis: NonNullable<ManagerOptions["redis"]>;
  /** These nodes are dead, frozen or out of reach at the moment: no message is published there. */
  readonly trouble: Set<RedisServer>;
  wayTo(node: RedisServer): Proxy;
  shards(): Promise<Shard[]>;
  /** A key on this shard, different for each `name`. */
  keyOn(shard: Shard, name: string): string;
  /** Waits until every node has its role again. */
  settled(): Promise<void>;
  /** How often each key was incremented. */
  counts(keys: readonly string[]): Promise<number[]>;
  plainClient(): PlainClient;
  stop(): Promise<void>;
}

export interface Fault {
  readonly name: string;
  /** Writes that no replica had yet may be lost, and no client is at fault. */
  readonly mayLose: boolean;
  /**
   * The replica takes over when it has everything. After other faults a failover may lose writes, also if the server is
   * only slow.
   */
  readonly isGraceful?: boolean;
  /** Hurts this shard and undoes it, except for what `Field.settled` waits for. */
  readonly provoke: (shard: Shard, random: () => number) => Promise<unknown>;
}

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** After this time the server's network has no traces of a fault. */
const AFTERMATH_MS = 300;

/** Keeps the publishers off the node while the fault lasts. */
export async function inTrouble(field: Field, node: RedisServer, fault: () => Promise<unknown>): Promise<void> {
  field.trouble.add(node);
  try {
    await fault();
    await pause(AFTERMATH_MS);
  } finally {
    field.trouble.delete(node);
  }
}

export function oneOf<T>(choices: readonly T[], random: () => number): T {
  return choices[Math.floor(random() * choices.length)]!;
}
