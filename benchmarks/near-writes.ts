/** What do writes under the prefixes of a near cache cost the server and the keeper, and how do hits go meanwhile? */
import { setTimeout as sleep } from "node:timers/promises";
import { eventually } from "../test/support/gate.js";
import { startRedis } from "../test/support/redis-server.js";
import { openManager } from "./contenders/redthread/redthread.js";
import { jsonText } from "./near-cache/values.js";
import type * as Tasks from "./near-cache/tasks.js";
import type { WritesLoad, Written } from "./near-writes/writer.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";
import type { Sample } from "./support/interleave.js";
import { cpuMicros } from "./support/loops.js";
import { OwnProcess } from "./support/own-process.js";

const MS = isSmoke ? 100 : 1_500;
const RATES = isSmoke ? [0, 1_000] : [0, 10_000, 50_000, Infinity];
const HOT = 200;
const CALLERS = 100;
const PREFIX = "near:";

await using server = await startRedis();
for (let i = 0; i < HOT; i++) await server.admin.set(`${PREFIX}${i}`, jsonText(i));
await using writer = new OwnProcess<WritesLoad, Written>(builds[0].script("near-writes/writer.js"), {
  port: server.port,
  prefix: `${PREFIX}w:`,
});

function open(isNear: boolean) {
  const nearCache = isNear ? { prefixes: [PREFIX] } : undefined;
  const options = { redis: { port: server.port }, threads: { count: 1 }, ...(nearCache && { nearCache }) };
  return openManager<typeof Tasks>(options, "near-cache/tasks.js");
}

async function serverMicros(): Promise<number> {
  const info = await server.admin.info("cpu");
  const of = (field: string): number => Number(new RegExp(`^${field}:([\\d.]+)`, "m").exec(info)![1]);
  return 1e6 * (of("used_cpu_user") + of("used_cpu_sys"));
}

/** What happens meanwhile, by the second. */
async function during(
  act: () => Promise<unknown>,
  read: () => Promise<readonly number[]> | readonly number[],
): Promise<number[]> {
  const startedAt = performance.now();
  const before = await read();
  await act();
  const after = await read();
  const seconds = (performance.now() - startedAt) / 1_000;
  return after.map((value, at) => (value - before[at]!) / seconds);
}

async function measure(isNear: boolean, perSecond: number): Promise<Sample> {
  await using manager = open(isNear);
  await manager.ready();
  const reading = { way: isNear ? "near" : "GET", keys: HOT, callers: CALLERS, leadMs: 0, ms: MS } as const;
  await manager.run("warm", reading);
  await eventually(async () => !isNear || manager.stats().near!.leaseMs > 0, 10_000, "values are served");
  const numbers = (): number[] => {
    const near = manager.stats().near;
    return near ? [near.invalidated, near.totals.hits.own + near.totals.hits.shared, near.totals.misses] : [0, 0, 0];
  };
  const writing = writer.ask({ perSecond, ms: 3 * MS });
  await sleep(MS / 4);
  // While no thread reads, all that this process computes is the keeper's work.
  const [serverCpu, keeperCpu, invalidated] = await during(
    () => sleep(MS),
    async () => [await serverMicros(), cpuMicros(), ...numbers()],
  );
  const before = numbers();
  const { reads, ms } = await manager.run("rate", reading);
  const [, hits, misses] = numbers().map((value, at) => value - before[at]!) as [number, number, number];
  const { written, ms: writtenMs } = await writing;
  return {
    written: (1_000 * written) / writtenMs,
    invalidated: invalidated!,
    serverCpu: serverCpu! / 1e4,
    keeperCpu: keeperCpu! / 1e4,
    readsPerSecond: (1_000 * reads) / ms,
    ...(isNear && { hits: (100 * hits) / (hits + misses) }),
  };
}

await benchmark({
  question: "writes of another process under the prefixes of a near cache, while one thread reads hot keys",
  columns: {
    written: "writes/s",
    invalidated: "told/s",
    serverCpu: "server CPU %",
    keeperCpu: "keeper CPU %",
    readsPerSecond: "reads/s",
    hits: "hits %",
  },
  points: RATES.map((rate) => ({ wanted: rate === Infinity ? "as many as possible" : rate })),
  contenders: [
    { name: "near cache", isNear: true },
    { name: "no near cache", isNear: false },
  ],
  rounds: isSmoke ? 1 : 5,
  measure: ({ isNear }, { wanted }) => measure(isNear, typeof wanted === "number" ? wanted : Infinity),
  notes: [
    "written: values of 100 bytes under 1 000 000 keys that nobody reads, on one connection",
    "told: invalidations that the keeper has read; CPU: of one core, while nobody reads",
    `reads: of ${HOT} other keys with 4 kB by ${CALLERS} callers in one thread; without a near cache by GET`,
  ],
  chart: {
    title: "Writes under the prefixes of a near cache",
    xTitle: "writes a second",
    yTitle: "CPU, % of a core",
    panels: [
      { title: "the server", x: "wanted", metric: "serverCpu" },
      { title: "the keeper", x: "wanted", metric: "keeperCpu" },
      { title: "one thread's reads", x: "wanted", metric: "readsPerSecond", yTitle: "reads per second" },
    ],
  },
});
