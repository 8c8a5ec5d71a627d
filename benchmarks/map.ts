/** What does `map()` do per second beside callers of `run()`, and does its memory grow with the inputs? */
import { startRedis } from "../test/support/redis-server.js";
import { byCallers } from "./contenders/contender.js";
import { openManagers } from "./contenders/redthread/redthread.js";
import type * as Tasks from "./contenders/redthread/tasks.js";
import type { Item } from "./contenders/work.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";
import { type Row, summarize } from "./support/interleave.js";
import { cpuMicros } from "./support/loops.js";

const CALLERS = 64;
const MANY = isSmoke ? 10_000 : 1_000_000;
const SAMPLES = 10;

await using server = await startRedis();
await server.admin.set("bench:map", "x".repeat(4_096));

const item: Item = { key: "bench:map", rounds: 0 };
function* inputs(count: number): Generator<Item> {
  for (let i = 0; i < count; i++) yield item;
}

type Drive = (name: "nothing" | "item", items: Iterable<Item>) => Promise<void>;
const options = { redis: { port: server.port }, threads: { count: 2 } };
await using managers = await openManagers<typeof Tasks>(builds, options);
const contenders = builds.flatMap((build, at) => {
  const manager = managers[at]!;
  const mapped =
    (ordered: boolean): Drive =>
    async (name, items) => {
      const results = manager.map(name, items, { ordered })[Symbol.asyncIterator]();
      while (!(await results.next()).done);
    };
  const called: Drive = (name, items) => byCallers((one) => manager.run(name, one))(items, CALLERS);
  return [
    { ...build.named("map()"), drive: mapped(true) },
    { ...build.named("map(), unordered"), drive: mapped(false) },
    { ...build.named(`run() from ${CALLERS} callers`), drive: called },
  ];
});

/** Resident memory of the process, threads included, while the inputs of one `map()` pass. */
async function watchMemory(): Promise<Row[]> {
  const rows: Row[] = [];
  let done = 0;
  for await (const _ of managers[0]!.map("nothing", inputs(MANY))) {
    if (++done % (MANY / SAMPLES) !== 0) continue;
    const metrics = { rssMb: summarize([process.memoryUsage.rss() / 2 ** 20]) };
    rows.push({ point: { task: "nothing", inputs: done }, contender: "map()", metrics });
  }
  return rows;
}

await benchmark({
  question: `an async iterator over many inputs beside run() from ${CALLERS} callers, 2 threads`,
  columns: { tasksPerSecond: "tasks/s", cpuPerTask: "CPU µs/task", rssMb: "RSS MB" },
  reference: "map()",
  points: [
    { task: "nothing", inputs: isSmoke ? 1_000 : 100_000 },
    { task: "GET + SET", inputs: isSmoke ? 500 : 20_000 },
  ],
  contenders,
  rounds: isSmoke ? 1 : 5,
  warmUps: isSmoke ? 0 : 1,
  async measure({ drive }, { task, inputs: count }) {
    const startedAt = performance.now();
    const cpuBefore = cpuMicros();
    await drive(task === "nothing" ? "nothing" : "item", inputs(count));
    const cpu = cpuMicros() - cpuBefore;
    return { tasksPerSecond: count / ((performance.now() - startedAt) / 1_000), cpuPerTask: cpu / count };
  },
  // Two builds share this process, so that its memory tells nothing about either.
  derive: async (rates) => (builds.length === 1 ? [...rates, ...(await watchMemory())] : rates),
  notes: [
    "map() with its default concurrency",
    builds.length === 1
      ? "RSS is of the whole process after so many inputs of one map()"
      : "RSS is not measured: both builds share a process",
  ],
  chart: {
    title: "map() beside run(), and its memory over a million inputs",
    yTitle: "tasks per second",
    panels: [
      { title: "tasks per second", x: "task", metric: "tasksPerSecond" },
      { title: "RSS against inputs", x: "inputs", metric: "rssMb", yTitle: "MB" },
    ],
  },
});
