import type { TestContext } from "node:test";
import { connect, ConnectionManager, disconnect, type ManagerOptions } from "../../src/index.js";
import type * as LockTasks from "../fixtures/lock-tasks.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { Cluster, type ClusterShape } from "./cluster.js";
import { eventually } from "./gate.js";
import { beginLeakCheck } from "./leak-check.js";
import { fixture, manage } from "./manage.js";
import type { RedisServer } from "./redis-server.js";
import { silent } from "./silent.js";

export const THREADS = 2;

/** A manager of a new Cluster; after the test no connection to a node may be left. */
export async function managed(
  t: TestContext,
  shape?: ClusterShape,
  options: Partial<ManagerOptions> = {},
): Promise<[ConnectionManager<typeof Tasks>, Cluster]> {
  const cluster = await Cluster.start(shape);
  const manager = manage<typeof Tasks>(t, cluster.masters[0]!, {
    tasks: fixture("topology-tasks"),
    ...options,
    threads: { count: THREADS, ...options.threads },
    redis: { ...cluster.redis, ...options.redis },
  });
  cluster.watch(t);
  return [manager, cluster];
}

/** A client of a new Cluster, with the same check. */
export async function connected(
  t: TestContext,
  shape?: ClusterShape,
  redis: ManagerOptions["redis"] = {},
): Promise<[Awaited<ReturnType<typeof connect>>, Cluster]> {
  const cluster = await Cluster.start(shape);
  const client = await connect({ env: {}, redis: { ...cluster.redis, ...redis } });
  t.after(() => disconnect(client));
  cluster.watch(t);
  return [client, cluster];
}

/** A manager whose thread takes locks, with a keeper of its own, as in another process. `Cluster.watch` has to follow. */
export function lockingOn(
  t: TestContext,
  cluster: Cluster,
  redis: ManagerOptions["redis"] = {},
  logger: ManagerOptions["logger"] = silent,
): ConnectionManager<typeof LockTasks> {
  beginLeakCheck(t);
  const manager = new ConnectionManager<typeof LockTasks>({
    env: {},
    logger,
    tasks: fixture("lock-tasks"),
    redis: { ...cluster.redis, ...redis },
    threads: { count: 1, startTimeoutMs: 30_000 },
  });
  t.after(() => eventually(() => manager.shutdown({ drainMs: 1_000 }), 30_000, "the manager is shut down"));
  return manager;
}

/** How many scripts the node has run. */
export async function scriptsRun({ admin }: RedisServer): Promise<number> {
  const stats = await admin.info("commandstats");
  return [...stats.matchAll(/cmdstat_eval(?:sha)?:calls=(\d+)/g)].reduce((sum, [, calls]) => sum + Number(calls), 0);
}
