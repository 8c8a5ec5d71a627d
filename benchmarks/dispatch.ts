/**
 * How many small tasks per second do plain `run()` calls give, beside piscina with a module-global ioredis, as it
 * comes and tuned? All contenders in one run, interleaved; medians of rounds, ratios to the first.
 */
import { fileURLToPath } from "node:url";
import { Piscina } from "piscina";
import { ConnectionManager } from "../src/index.js";
import { startRedis, type RedisServer } from "../test/support/redis-server.js";
import type * as Tasks from "./contenders/redthread-tasks.js";
import type { Item } from "./work.js";

interface Contender {
  readonly name: string;
  readonly run: (item: Item) => Promise<unknown>;
  readonly close: () => Promise<unknown>;
}

const THREADS = 2;
const KEYS = 256;
const isSmoke = process.argv.includes("--smoke");
const ROUNDS = isSmoke ? 1 : 5;
const ROUND_MS = isSmoke ? 100 : 1_000;
const silent = { debug() {}, info() {}, warn() {}, error() {} };

function contenders(server: RedisServer): Contender[] {
  const manager = new ConnectionManager<typeof Tasks>({
    tasks: new URL("./contenders/redthread-tasks.js", import.meta.url),
    env: {},
    logger: silent,
    redis: { port: server.port },
    threads: { count: THREADS },
  });
  const byHand = {
    filename: fileURLToPath(new URL("./contenders/piscina-global.js", import.meta.url)),
    minThreads: THREADS,
    maxThreads: THREADS,
    workerData: { port: server.port },
  };
  const plain = new Piscina(byHand);
  const tuned = new Piscina({ ...byHand, concurrentTasksPerWorker: 16, atomics: "disabled" });
  return [
    { name: "redthread run()", run: (item) => manager.run("item", item), close: () => manager.shutdown() },
    { name: "piscina + global ioredis", run: (item) => plain.run(item), close: () => plain.destroy() },
    { name: "the same, tuned", run: (item) => tuned.run(item), close: () => tuned.destroy() },
  ];
}

async function tasksPerSecond({ run }: Contender, callers: number, rounds: number): Promise<number> {
  const startedAt = performance.now();
  let done = 0;
  const caller = async (id: number): Promise<void> => {
    for (let i = id; performance.now() - startedAt < ROUND_MS; i += callers) {
      await run({ key: `bench:${i % KEYS}`, rounds });
      done++;
    }
  };
  await Promise.all(Array.from({ length: callers }, (_, id) => caller(id)));
  return done / ((performance.now() - startedAt) / 1_000);
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)]!;
}

await using server = await startRedis();
for (let i = 0; i < KEYS; i++) await server.admin.set(`bench:${i}`, "x".repeat(4_096));
const all = contenders(server);
for (const contender of all) await tasksPerSecond(contender, 8, 0); // threads up, clients connected, code warm
for (const callers of [1, 64]) {
  for (const rounds of [0, 20, 100, 1_000]) {
    const measured = all.map(() => [] as number[]);
    for (let round = 0; round < ROUNDS; round++) {
      for (const [i, contender] of all.entries()) measured[i]!.push(await tasksPerSecond(contender, callers, rounds));
    }
    const medians = measured.map(median);
    const cells = all.map(
      ({ name }, i) => `${name} ${Math.round(medians[i]!)}/s (${(medians[0]! / medians[i]!).toFixed(2)}x)`,
    );
    console.log(`${callers} callers, ${rounds} x sha256: ${cells.join(" | ")}`);
  }
}
for (const { close } of all) await close();
