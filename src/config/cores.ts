import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";

type ReadFile = (path: string) => string | undefined;

/**
 * Cores this process may use: the affinity mask, held down by the cgroup's CPU quota (which Node 20 does not see),
 * rounded down, at least 1. More threads than that only get throttled together.
 */
export function availableCores(read: ReadFile = readText, parallelism: () => number = availableParallelism): number {
  const quotas = [parallelism(), ...quotasV2(read), quotaV1(read)].filter((cores) => cores > 0);
  return Math.max(1, Math.floor(Math.min(...quotas)));
}

/** In a container the group is the root; under systemd it is a path, and each of its parents may hold a quota. */
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

/** NaN or negative when there is no quota: "max", -1, or no such file. */
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
