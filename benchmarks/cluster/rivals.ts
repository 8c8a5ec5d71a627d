import { Cluster as IoredisCluster } from "ioredis";
import { connect, disconnect } from "../../src/index.js";
import { Cluster } from "../../test/support/cluster.js";
import { CountedLoad } from "../../test/support/counted-load.js";
import type { Rival } from "../outage/rival.js";
import type { Sample } from "../support/interleave.js";

export interface Case {
  readonly name: string;
  readonly fault: "death" | "cuts";
  readonly cuts?: number;
  /** Callers go on for so long at least. */
  readonly atLeastMs: number;
}

const CALLERS = 8;
const CALLS_BETWEEN = 100;
const SHARDS = ["in trouble", "second", "third"] as const;

type Incr = (key: string) => Promise<unknown>;

/** The same calls to each shard, and a fault that concerns the first one only. */
export function clusterRivals(of: Case): Rival[] {
  return [
    { name: "redthread", measure: () => withCluster((cluster) => redthread(cluster, of)) },
    { name: "ioredis Cluster, defaults", measure: () => withCluster((cluster) => ioredis(cluster, of)) },
  ];
}

async function withCluster(measure: (cluster: Cluster) => Promise<Sample>): Promise<Sample> {
  await using cluster = await Cluster.start({ replicas: 1 });
  await cluster.allowPartial();
  return await measure(cluster);
}

async function redthread(cluster: Cluster, of: Case): Promise<Sample> {
  const client = await connect({ env: {}, redis: cluster.redis });
  try {
    return await endure(cluster, of, (key) => client.incr(key));
  } finally {
    await disconnect(client);
  }
}

async function ioredis(cluster: Cluster, of: Case): Promise<Sample> {
  const client = new IoredisCluster(cluster.redis.clusterNodes).on("error", () => undefined);
  try {
    return await endure(cluster, of, (key) => client.incr(key));
  } finally {
    client.disconnect();
  }
}

async function endure(cluster: Cluster, { fault, cuts = 0, atLeastMs }: Case, incr: Incr): Promise<Sample> {
  const startedAt = performance.now();
  const loads = SHARDS.map((_, shard) => new ShardLoad(cluster, shard, incr));
  const [hit] = loads;
  await Promise.all(loads.map(({ load }) => load.progress(CALLS_BETWEEN)));
  if (fault === "death") {
    await cluster.masters[0]!.kill();
    await hit!.load.progress(CALLS_BETWEEN, 60_000);
  }
  for (let cut = 0; cut < cuts; cut++) {
    await cluster.masters[0]!.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    await hit!.load.progress(CALLS_BETWEEN, 60_000);
  }
  const leftMs = startedAt + atLeastMs - performance.now();
  if (leftMs > 0) await new Promise((resolve) => setTimeout(resolve, leftMs));
  const samples = await Promise.all(loads.map((load) => load.end()));
  return Object.fromEntries(
    samples.flatMap((sample, shard) =>
      Object.entries(sample).map(([name, value]) => [`${SHARDS[shard]!}:${name}`, value]),
    ),
  );
}

/** Callers of one shard. */
class ShardLoad {
  readonly load: CountedLoad;
  readonly #cluster: Cluster;
  readonly #keys: string[] = [];
  readonly #acknowledged = new Set<string>();

  constructor(cluster: Cluster, shard: number, incr: Incr) {
    this.#cluster = cluster;
    this.load = new CountedLoad({
      callers: CALLERS,
      write: async () => {
        const key = cluster.keyOn(shard, `${shard}:${this.#keys.length}`);
        this.#keys.push(key);
        await incr(key);
        this.#acknowledged.add(key);
      },
    });
  }

  async end(): Promise<Record<string, number>> {
    await this.load.stop();
    const counters = await this.#cluster.admin.mget(this.#keys);
    const runTwice = counters.filter((counter) => Number(counter) > 1);
    const lost = this.#keys.filter((key, i) => this.#acknowledged.has(key) && counters[i] === null);
    return {
      success: (100 * this.#acknowledged.size) / this.#keys.length,
      failed: this.#keys.length - this.#acknowledged.size,
      slowest: this.load.ledger.slowestMs,
      twice: runTwice.length,
      lost: lost.length,
      calls: this.#keys.length,
    };
  }
}
