/** When one shard of a Cluster is in trouble, what do the callers of each shard notice, beside ioredis' Cluster? */
import { Cluster as IoredisCluster } from "ioredis";
import { connect, disconnect } from "../src/index.js";
import { Cluster } from "../test/support/cluster.js";
import { CountedLoad } from "../test/support/counted-load.js";
import { benchmark, isSmoke } from "./support/benchmark.js";
import type { Row, Sample } from "./support/interleave.js";

type Incr = (key: string) => Promise<unknown>;
type Fault = (cluster: Cluster, progress: () => Promise<unknown>) => Promise<void>;
type Measure = (incr: Incr) => Promise<Sample>;

const CALLERS = 8;
const CALLS_BETWEEN = 100;
const SHARDS = ["in trouble", "second", "third"] as const;
/** Callers go on for so long at least. */
const LEAST_MS = isSmoke ? 500 : 3_000;
const CUTS = isSmoke ? 1 : 20;

/** The first shard's master is hurt; `progress` waits until its callers have done some calls. */
const CASES: Readonly<Record<string, Fault>> = {
  async "a master dies"({ masters }, progress) {
    await masters[0]!.kill();
    await progress();
  },
  async [`${CUTS} cuts of a master`]({ masters }, progress) {
    for (let cut = 0; cut < CUTS; cut++) {
      await masters[0]!.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await progress();
    }
  },
};
const cases = Object.keys(CASES);

const CLIENTS: Readonly<Record<string, (cluster: Cluster, measure: Measure) => Promise<Sample>>> = {
  async redthread(cluster, measure) {
    const client = await connect({ env: {}, redis: cluster.redis });
    try {
      return await measure((key) => client.incr(key));
    } finally {
      await disconnect(client);
    }
  },
  async "ioredis Cluster, defaults"(cluster, measure) {
    const client = new IoredisCluster(cluster.redis.clusterNodes).on("error", () => undefined);
    try {
      return await measure((key) => client.incr(key));
    } finally {
      client.disconnect();
    }
  },
};

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
    const lost = this.#keys.filter((key, i) => this.#acknowledged.has(key) && counters[i] === null);
    return {
      success: (100 * this.#acknowledged.size) / this.#keys.length,
      failed: this.#keys.length - this.#acknowledged.size,
      slowest: this.load.ledger.slowestMs,
      twice: counters.filter((counter) => Number(counter) > 1).length,
      lost: lost.length,
      calls: this.#keys.length,
    };
  }
}

/** The same calls to each shard, and a fault of the first one. */
async function endure(cluster: Cluster, fault: Fault, incr: Incr): Promise<Sample> {
  const startedAt = performance.now();
  const shards = SHARDS.map((_, shard) => new ShardLoad(cluster, shard, incr));
  await Promise.all(shards.map(({ load }) => load.progress(CALLS_BETWEEN)));
  await fault(cluster, () => shards[0]!.load.progress(CALLS_BETWEEN, 60_000));
  const leftMs = startedAt + LEAST_MS - performance.now();
  if (leftMs > 0) await new Promise((resolve) => setTimeout(resolve, leftMs));
  const samples = await Promise.all(shards.map((shard) => shard.end()));
  const named = samples.flatMap((sample, shard) =>
    Object.entries(sample).map(([name, value]) => [`${SHARDS[shard]!}:${name}`, value] as const),
  );
  return Object.fromEntries(named);
}

/** One row per shard. */
function byShard({ point, contender, metrics }: Row): Row[] {
  return SHARDS.map((shard) => {
    const mine = Object.entries(metrics).filter(([name]) => name.startsWith(`${shard}:`));
    const named = mine.map(([name, series]) => [name.slice(shard.length + 1), series] as const);
    return { point: { ...point, shard }, contender, metrics: Object.fromEntries(named) };
  });
}

await benchmark({
  question: "one shard of a Cluster in trouble under INCRs, per shard, beside ioredis' Cluster",
  columns: {
    success: "success %",
    failed: "failed",
    slowest: "slowest, ms",
    twice: "run twice",
    lost: "acknowledged and lost",
    calls: "calls",
  },
  points: cases.map((name) => ({ case: name })),
  contenders: Object.entries(CLIENTS).map(([name, withClient]) => ({ name, withClient })),
  rounds: 1,
  async measure({ withClient }, { case: name }) {
    await using cluster = await Cluster.start({ replicas: 1 });
    await cluster.allowPartial();
    return await withClient(cluster, (incr) => endure(cluster, CASES[name]!, incr));
  },
  derive: (rows) => rows.flatMap(byShard),
  notes: [
    "3 masters with a replica each, cluster-require-full-coverage no, 8 callers per shard, a key for each call",
    "success: acknowledged of all calls; one that is told that it may have run (REPLY_LOST) has failed, as has one given up",
    "replication is asynchronous: what only the dead master had is lost to every client; WAIT is the remedy",
  ],
  chart: {
    title: "One shard of a Cluster in trouble",
    panels: cases.flatMap((name) =>
      Object.entries({ success: "success %", failed: "failed calls", twice: "INCRs run twice" }).map(
        ([metric, title]) => ({
          title: `${title}: ${name}`,
          x: "shard",
          metric,
          where: (point) => point["case"] === name,
          yTitle: "",
        }),
      ),
    ),
  },
});
