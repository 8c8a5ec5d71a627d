import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import type { Config } from "./options.js";

/** The connections that a server has room for, and the connections that one process may open. */
export interface Capacity {
  /** Infinity if the server names none. */
  readonly maxclients: number;
  /** Connected clients, without the client that asks. */
  readonly others: number;
  /** The most that one process of this configuration opens. */
  readonly needed: number;
  readonly isEnough: boolean;
}

/** The capacity by the server's answer to INFO clients. */
export function capacityOf(info: string, config: Config): Capacity {
  const maxclients = Number(/^maxclients:(\d+)/m.exec(info)?.[1] ?? Infinity);
  const others = Number(/^connected_clients:(\d+)/m.exec(info)?.[1] ?? 1) - 1;
  const needed = mostConnections(config);
  return { maxclients, others, needed, isEnough: others + needed <= maxclients };
}

/** What is wrong with `connections.max` for a process with locks: the keeper needs a place beside the others. */
export function noRoomForLocks(config: Config): string | undefined {
  return noRoom(config, 3, "locks", "a connection of its own extends them");
}

/** The same for locks with `replicas`. */
export function noRoomForReplicatedLocks(config: Config): string | undefined {
  return noRoom(config, 4, "locks with replicas", "two connections of their own extend locks");
}

/** The same for a process with a near cache. */
export function noRoomForNearCache(config: Config): string | undefined {
  return noRoom(config, 3, "a near cache", "a connection of its own hears of writes");
}

/** A thread fills a segment of the near cache alone, so that a segment has to hold many of the largest values. */
export function nearSegmentBytes(maxValueBytes: number): number {
  return Math.max(256 * 1024, 16 * Math.ceil(maxValueBytes / 64) * 64);
}

/** Each thread and its successor fill a segment, the main thread as well, and one more is read. */
export function leastNearBytes(threads: number, maxValueBytes: number): number {
  return (2 * threads + 2) * nearSegmentBytes(maxValueBytes);
}

function noRoom({ threads, connections }: Config, more: number, what: string, why: string): string | undefined {
  const isRecycled = isRecycling(threads);
  const needed = threads.count + Number(isRecycled) + more;
  if ((connections.max ?? Infinity) >= needed) return undefined;
  const sum = `threads.count + ${more}${isRecycled ? ", and one for a thread that is recycled" : ""}`;
  return `connections.max: must be at least ${needed} for ${what} (${sum}), because ${why}`;
}

/**
 * The clients of each thread (and of the successor of a recycled thread), the primary client, its successor, the subscriber, and the
 * keeper of a near cache.
 */
function mostConnections({ threads, dedicated, connections, nearCache }: Config): number {
  const most = (threads.count + Number(isRecycling(threads))) * (1 + dedicated.max) + 3;
  return connections.max ?? most + Number(nearCache.prefixes !== undefined);
}

function isRecycling({ maxTasks, maxHeapMb }: Config["threads"]): boolean {
  return maxTasks !== undefined || maxHeapMb !== undefined;
}

type ReadFile = (path: string) => string | undefined;

/**
 * Cores that this process may use: the affinity mask, limited by the cgroup's CPU quota (which Node 20 ignores),
 * rounded down, at least 1. More threads than cores are only throttled together.
 */
export function availableCores(read: ReadFile = readText, parallelism: () => number = availableParallelism): number {
  const quotas = [parallelism(), ...quotasV2(read), quotaV1(read)].filter((cores) => cores > 0);
  return Math.max(1, Math.floor(Math.min(...quotas)));
}

/** In a container the group is the root. Under systemd it is a path, and each of its parents may have a quota. */
function quotasV2(read: ReadFile): number[] {
  const group = /^0::(\/.*)$/m.exec(read("/proc/self/cgroup") ?? "")?.[1] ?? "/";
  const names = group.split("/").filter(Boolean);
  return [...names, ""].map((_, depth) => {
    const folder = ["/sys/fs/cgroup", ...names.slice(0, depth)].join("/");
    const [quota, period] = read(`${folder}/cpu.max`)?.trim().split(" ") ?? [];
    return ratio(quota, period);
  });
}

function quotaV1(read: ReadFile): number {
  return ratio(read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
}

/** NaN or negative if there is no quota: "max", -1, or no such file. */
function ratio(quota: string | undefined, period: string | undefined): number {
  return Number(quota) / Number(period);
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // No such file is the usual case: no cgroups here, or the other version of them.
    return undefined;
  }
}
