/** How many nearest-neighbour queries per second does each precision give, at which recall, over 1 and 2 threads? */
import { fileURLToPath } from "node:url";
import { ConnectionManager } from "../src/index.js";
import { silent } from "../test/support/silent.js";
import { startRedis } from "../test/support/redis-server.js";
import { Progress } from "../workers/demo/progress.js";
import { sampleRows } from "../workers/demo/queries.js";
import { recall } from "../workers/demo/recall.js";
import { eachOf, STRATEGIES, type VectorManager, VectorStore } from "../workers/demo/vector-store.js";
import { openVectors } from "../workers/demo/vectors-source.js";
import { QUANTIZERS, type QuantizerName } from "../workers/quantize.js";
import type { Hits } from "../workers/top-k.js";
import { interleave, type Sample } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { NoiseVectors } from "./vectors/noise.js";

interface VectorsPoint extends Record<string, string | number> {
  readonly threads: number;
}

const NEIGHBOURS = 10;
const PREFIX = "bench:vectors:";
const options = parseBenchOptions();
const WORDS = options.isSmoke ? 1_000 : 5_000;
const ROUNDS = options.isSmoke ? 1 : 5;
const signal = new AbortController().signal;

// The demo's own, fetched once.
const folder = fileURLToPath(new URL("../../.cache/vectors", import.meta.url));
await using noise = options.isSmoke ? await NoiseVectors.create(WORDS, 100) : undefined;
await using vectors =
  noise?.file ?? (await openVectors({ folder, progress: new Progress(process.stderr), env: process.env, signal }));
await using server = await startRedis();
await using one = manage(1);
await using two = manage(2);
const stores = [one, two].map((manager) => new VectorStore({ manager, prefix: PREFIX, vectors, words: WORDS, signal }));
const [store] = stores;
for (const strategy of STRATEGIES) await store!.store(strategy, () => undefined);
const rows = sampleRows(WORDS);
const exact = await store!.nearestExactly(rows, NEIGHBOURS, () => undefined);

function manage(threads: number): VectorManager {
  return new ConnectionManager<typeof import("../workers/vector-tasks.js")>({
    tasks: new URL("../workers/vector-tasks.js", import.meta.url),
    env: {},
    logger: silent,
    redis: { port: server.port },
    threads: { count: threads },
  });
}

async function measure({ name }: { name: QuantizerName }, { threads }: VectorsPoint): Promise<Sample> {
  const searched = stores[threads - 1]!;
  const startedAt = performance.now();
  const found: Hits[] = await eachOf(rows, (row) => searched.nearest(name, row, NEIGHBOURS));
  const seconds = (performance.now() - startedAt) / 1_000;
  return {
    queriesPerSecond: rows.length / seconds,
    recallAt10: recall(found, exact),
    bytesPerVector: QUANTIZERS[name].bytesPerVector(vectors.dimensions),
  };
}

const measured = await interleave(
  {
    points: [1, 2].map((threads): VectorsPoint => ({ threads })),
    contenders: STRATEGIES.map((name) => ({ name })),
    rounds: ROUNDS,
    warmUps: 1, // the blocks are in the threads' caches after it
    measure,
  },
  options,
);
report(
  {
    name: "vectors",
    question: `the 10 nearest of ${WORDS} word vectors of ${vectors.dimensions} dimensions, 8 queries at once`,
    metrics: [
      { key: "queriesPerSecond", title: "queries/s" },
      { key: "recallAt10", title: "recall@10" },
      { key: "bytesPerVector", title: "bytes" },
    ],
    reference: "float32",
    rows: measured,
    notes: [
      "recall@10: share of the neighbours that float32 in double precision finds; sign ranks its candidates by int8",
    ],
    chart: {
      title: `Nearest neighbours among ${WORDS} word vectors`,
      yTitle: "queries per second",
      xTitle: "threads",
      kind: "bars",
      panels: [
        panelOf(measured, { title: "queries per second", x: "threads", metric: "queriesPerSecond" }),
        panelOf(measured, { title: "recall@10", x: "threads", metric: "recallAt10", yTitle: "share" }),
      ],
    },
  },
  options,
);
