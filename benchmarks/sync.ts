/**
 * What does a synchronous call cost beside an asynchronous one of the same thread? Single GETs and pipelines of 100,
 * interleaved; medians over rounds of p50 and p99, and their ratios.
 */
import { ConnectionManager } from "../src/index.js";
import { startRedis } from "../test/support/redis-server.js";
import type * as Tasks from "./contenders/sync-tasks.js";

const isSmoke = process.argv.includes("--smoke");
const ROUNDS = isSmoke ? 1 : 9;
const BLOCKS = isSmoke ? 5 : 100;
const silent = { debug() {}, info() {}, warn() {}, error() {} };

await using server = await startRedis();
for (let i = 0; i < 100; i++) await server.admin.set(`bench:${i}`, "x".repeat(100));
await using manager = new ConnectionManager<typeof Tasks>({
  tasks: new URL("./contenders/sync-tasks.js", import.meta.url),
  env: {},
  logger: silent,
  redis: { port: server.port },
  threads: { count: 1 },
});
await manager.ready();
const { ms, mb } = await manager.run("start");
console.log(`the first synchronous client: ${Math.round(ms)} ms, ${mb.toFixed(1)} MB of resident memory`);
await manager.run("compare", isSmoke ? 1 : 50); // code warm
const rounds: Tasks.Measured[] = [];
for (let round = 0; round < ROUNDS; round++) rounds.push(await manager.run("compare", BLOCKS));
for (const what of ["get", "pipeline"] as const) {
  for (const share of [0.5, 0.99]) {
    const [sync, asynchronous] = (["sync", "async"] as const).map((how) =>
      quantile(
        rounds.map((round) => quantile(round[what][how], share)),
        0.5,
      ),
    ) as [number, number];
    const ratio = (sync / asynchronous).toFixed(2);
    console.log(
      `${what} p${share * 100}: sync ${Math.round(sync)} µs, async ${Math.round(asynchronous)} µs (${ratio}x)`,
    );
  }
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length * share)]!;
}
