import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ConnectionManager, type Logger, type ShutdownReport } from "../../src/index.js";
import { QUANTIZERS, type QuantizerName } from "../quantize.js";
import type { Hits } from "../top-k.js";
import type { DemoOptions } from "./args.js";
import { Observer } from "./observer.js";
import type { Progress } from "./progress.js";
import { chooseQueries, sampleRows, type Query } from "./queries.js";
import { recall } from "./recall.js";
import { withRedis, type DemoRedis } from "./redis-source.js";
import {
  printNear,
  printNeighbours,
  printStrategies,
  type DemoReport,
  type NearReport,
  type StrategyReport,
} from "./report.js";
import type { VectorFile } from "./vector-file.js";
import { eachOf, STRATEGIES, VectorStore, type VectorManager } from "./vector-store.js";
import { openVectors } from "./vectors-source.js";

export interface DemoSetting {
  readonly options: DemoOptions;
  /** The repository: its .cache folder keeps the vectors. */
  readonly root: string;
  readonly env: NodeJS.ProcessEnv;
  readonly progress: Progress;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

type Measured = Omit<DemoReport, "connectionsLeft" | "shutdown">;

const NEIGHBOURS = 10;
/** More than all words take as int8, with any number of threads; what is not used costs nothing. */
const NEAR_BYTES = 256 * 2 ** 20;
const NEAR_START_MS = 5_000;
const SHUTDOWN = { drainMs: 2_000, closeMs: 2_000 };

/**
 * The main work on real input: fetches the vectors, stores them in every precision through worker threads, searches,
 * shuts down, and checks that no connection is left on the server. @throws UsageError before anything but the vectors
 * is opened
 */
export async function runDemo(setting: DemoSetting): Promise<DemoReport> {
  const { options, root, env, progress, signal } = setting;
  await using vectors = await openVectors({ folder: join(root, ".cache", "vectors"), progress, env, signal });
  const queries = chooseQueries(options.queries, vectors.words, options.words);
  return await withRedis(env, (redis) =>
    Observer.use(redis, (observer) => run(setting, vectors, queries, redis, observer)),
  );
}

async function run(
  setting: DemoSetting,
  vectors: VectorFile,
  queries: readonly Query[],
  redis: DemoRedis,
  observer: Observer,
): Promise<DemoReport> {
  const { options, progress, signal } = setting;
  const id = randomBytes(4).toString("hex");
  const appName = `demo-${id}`;
  const prefix = `redthread:demo:${id}:`;
  const manager = createManager(setting, redis, appName, prefix);
  const store = new VectorStore({ manager, prefix, vectors, words: options.words, signal, isNear: true });
  let measured: Measured;
  let shutdown: ShutdownReport;
  try {
    measured = await measure(setting, manager, store, vectors, queries, redis);
  } finally {
    // Also after a failure or Ctrl-C: the threads stop writing before the keys are deleted.
    shutdown = await manager.shutdown(SHUTDOWN);
    await observer.deleteKeys(store.keys());
  }
  const connectionsLeft = await observer.connectionsLeft(appName);
  printShutdown(progress, shutdown, connectionsLeft, redis);
  return { ...measured, connectionsLeft, shutdown };
}

function createManager(
  { options, env, logger }: DemoSetting,
  { url }: DemoRedis,
  appName: string,
  prefix: string,
): VectorManager {
  return new ConnectionManager<typeof import("../vector-tasks.js")>({
    tasks: new URL("../vector-tasks.js", import.meta.url),
    appName,
    // Other settings of the environment are for another Redis.
    env: Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith("REDIS_"))),
    // The embedded server is slow, and gets all requests at once.
    redis: { url, commandTimeoutMs: 30_000 },
    threads: { count: options.threads },
    nearCache: { prefixes: [`${prefix}int8:`], maxBytes: NEAR_BYTES },
    logger,
  });
}

async function measure(
  { options, progress, signal }: DemoSetting,
  manager: VectorManager,
  store: VectorStore,
  vectors: VectorFile,
  queries: readonly Query[],
  redis: DemoRedis,
): Promise<Measured> {
  await manager.ready();
  await nearSettled(manager);
  signal.throwIfAborted();
  const threads = manager.stats().threads.length;
  progress.line(`${options.words} words, ${vectors.dimensions} dimensions, ${threads} threads, on ${redis.name}`);
  const startedAt = performance.now();
  await storeAll(store, progress);
  const answers = await eachOf(queries, ({ row }) => store.nearest("float32", row, NEIGHBOURS));
  const neighbours = queries.map(({ word }, at) => ({ word, neighbours: named(answers[at]!, vectors.words) }));
  printNeighbours(progress, neighbours);
  const strategies = await searchAll(store, progress, sampleRows(options.words), vectors.dimensions);
  printStrategies(progress, strategies);
  const nearCache = countReads(manager);
  printNear(progress, nearCache);
  const tasksPerSecond = countTasks(manager, progress, (performance.now() - startedAt) / 1_000);
  return {
    words: options.words,
    dimensions: vectors.dimensions,
    strategies,
    nearCache,
    queries: neighbours,
    threads,
    tasksPerSecond,
  };
}

/** The near cache is on or off as soon as its keeper is connected, which no one waits for. Here its hits are counted. */
async function nearSettled(manager: VectorManager): Promise<void> {
  const giveUpAt = performance.now() + NEAR_START_MS;
  while ((manager.stats().near?.state ?? "starting") === "starting" && performance.now() < giveUpAt) await sleep(10);
}

async function storeAll(store: VectorStore, progress: Progress): Promise<void> {
  for (const strategy of STRATEGIES) {
    const label = `quantizing and storing ${strategy}`;
    await progress.bar(label, store.blocks.length, (bar) => store.store(strategy, () => bar.add(1)));
  }
}

async function searchAll(
  store: VectorStore,
  progress: Progress,
  rows: readonly number[],
  dimensions: number,
): Promise<StrategyReport[]> {
  const label = `exact neighbours of ${rows.length} words`;
  const exact = await progress.bar(label, store.blocks.length, (bar) =>
    store.nearestExactly(rows, NEIGHBOURS, () => bar.add(1)),
  );
  const reports: StrategyReport[] = [];
  for (const name of STRATEGIES) {
    const { found, seconds } = await search(store, progress, name, rows);
    reports.push({
      name,
      bytesPerVector: QUANTIZERS[name].bytesPerVector(dimensions),
      recallAt10: round(recall(found, exact), 4),
      queriesPerSecond: round(rows.length / seconds, 1),
    });
  }
  return reports;
}

async function search(
  store: VectorStore,
  progress: Progress,
  name: QuantizerName,
  rows: readonly number[],
): Promise<{ found: Hits[]; seconds: number }> {
  const startedAt = performance.now();
  const found = await progress.bar(`searching ${name}`, rows.length, (bar) =>
    eachOf(rows, async (row) => {
      const hits = await store.nearest(name, row, NEIGHBOURS);
      bar.add(1);
      return hits;
    }),
  );
  return { found, seconds: (performance.now() - startedAt) / 1_000 };
}

function countReads(manager: VectorManager): NearReport {
  const { hits, misses } = manager.stats().near!.totals;
  const reads = hits.own + hits.shared + misses;
  const off = manager.health().reasons.find((reason) => reason.startsWith("the near cache")) ?? null;
  return { off, reads, hitRate: round((reads - misses) / reads, 4) };
}

function countTasks(manager: VectorManager, progress: Progress, seconds: number): number {
  const threads = manager.stats().threads;
  const total = threads.reduce((sum, { done }) => sum + done, 0);
  progress.line(`${total} tasks in ${seconds.toFixed(1)} s: ${(total / seconds).toFixed(0)} per second`);
  for (const { threadId, done } of threads) {
    progress.line(`  thread ${threadId}: ${done} tasks, ${(done / seconds).toFixed(0)} per second`);
  }
  return round(total / seconds, 1);
}

function printShutdown(progress: Progress, report: ShutdownReport, left: number, { isShared }: DemoRedis): void {
  const graceful = report.threads.filter(({ outcome }) => outcome === "graceful").length;
  progress.line(
    `shut down in ${Math.round(report.durationMs)} ms: ${graceful} of ${report.threads.length} threads gracefully`,
  );
  const whose = isShared ? "connections of this run" : "connections besides the observer's";
  progress.line(`CLIENT LIST of the server: ${left} ${whose}`);
}

function named({ rows, scores }: Hits, words: readonly string[]): { word: string; score: number }[] {
  return Array.from(rows, (row, at) => ({ word: words[row]!, score: round(scores[at]!, 4) }));
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
