import type { TestContext } from "node:test";
import { connect, type ConnectionManager, disconnect, type ManagerOptions } from "../../src/index.js";
import type * as Tasks from "../fixtures/topology-tasks.js";
import { Cluster, type ClusterShape } from "./cluster.js";
import { fixture, manage } from "./manage.js";

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
