/** What does `map()` give over `run()` from callers, and does its memory grow with the inputs? */
import { memoryUsage } from "node:process";
import type { ConnectionManager } from "redthread";
import { startRedis } from "../test/support/redis-server.js";
import { byCallers } from "./contenders/contender.js";
import { openManagerOf } from "./contenders/redthread.js";
import type * as Tasks from "./contenders/redthread-tasks.js";
import { buildsOf } from "./support/build.js";
import { interleave, type Named, type Row, type Sample } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { summarize } from "./support/statistics.js";
import type { Item } from "./work.js";

interface MapPoint extends Record<string, string | number> {
  readonly task: "nothing" | "GET + SET";
  readonly inputs: number;
}

type Manager = ConnectionManager<typeof Tasks>;

interface Candidate extends Named<MapPoint> {
  readonly drive: (name: "nothing" | "item", items: Iterable<Item>) => Promise<void>;
}

const CALLERS = 64;
const options = parseBenchOptions();
const builds = buildsOf(options);
const { isSmoke } = options;
const ROUNDS = isSmoke ? 1 : 5;
const MANY = isSmoke ? 10_000 : 1_000_000;
const SAMPLES = 10;

await using server = await startRedis();
await server.admin.set("bench:map", "x".repeat(4_096));

const item: Item = { key: "bench:map", rounds: 0 };
function* inputs(count: number): Generator<Item> {
  for (let i = 0; i < count; i++) yield item;
}
const mapped =
  (manager: Manager, ordered: boolean): Candidate["drive"] =>
  async (name, items) => {
    const results = manager.map(name, items, { ordered })[Symbol.asyncIterator]();
    while (!(await results.next()).done);
  };
const managers: Manager[] = [];
const contenders: Candidate[] = [];
for (const build of builds) {
  const manager = await openManagerOf<typeof Tasks>(build, "redthread-tasks.js", { port: server.port, threads: 2 });
  await manager.ready();
  managers.push(manager);
  contenders.push(
    { ...build.named("map()"), drive: mapped(manager, true) },
    { ...build.named("map(), unordered"), drive: mapped(manager, false) },
    {
      ...build.named(`run() from ${CALLERS} callers`),
      drive: (name, items) => byCallers((one) => manager.run(name, one))(items, CALLERS),
    },
  );
}

async function measure({ drive }: Candidate, { task, inputs: count }: MapPoint): Promise<Sample> {
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  await drive(task === "nothing" ? "nothing" : "item", inputs(count));
  const { user, system } = process.cpuUsage(cpuBefore);
  return { tasksPerSecond: count / ((performance.now() - startedAt) / 1_000), cpuPerTask: (user + system) / count };
}

/** Resident memory of the process, threads included, as the inputs of one `map()` pass. */
async function watchMemory(): Promise<Row<MapPoint>[]> {
  const rows: Row<MapPoint>[] = [];
  let done = 0;
  for await (const _ of managers[0]!.map("nothing", inputs(MANY))) {
    if (++done % (MANY / SAMPLES) !== 0) continue;
    const metrics = { rssMb: summarize([memoryUsage.rss() / 2 ** 20]) };
    rows.push({ point: { task: "nothing", inputs: done }, contender: "map()", metrics });
  }
  return rows;
}

const points: readonly MapPoint[] = [
  { task: "nothing", inputs: isSmoke ? 1_000 : 100_000 },
  { task: "GET + SET", inputs: isSmoke ? 500 : 20_000 },
];
const rates = await interleave({ points, contenders, rounds: ROUNDS, warmUps: isSmoke ? 0 : 1, measure }, options);
// Both builds share this process, so that its memory is neither's.
const memory = builds.length === 1 ? await watchMemory() : [];
for (const manager of managers) await manager.shutdown();
report(
  {
    name: "map",
    question: `an async iterator over many inputs beside run() from ${CALLERS} callers, 2 threads`,
    metrics: [
      { key: "tasksPerSecond", title: "tasks/s" },
      { key: "cpuPerTask", title: "CPU µs/task" },
      { key: "rssMb", title: "RSS MB" },
    ],
    reference: "map()",
    rows: [...rates, ...memory],
    notes: [
      "map() with its default concurrency",
      builds.length === 1
        ? "RSS is of the whole process after so many inputs of one map()"
        : "RSS is not measured: both builds share a process",
    ],
    chart: {
      title: "map() beside run(), and its memory over a million inputs",
      yTitle: "tasks per second",
      xTitle: "",
      kind: "bars",
      isLog: false,
      panels: [
        panelOf(rates, { title: "tasks per second", x: "task", metric: "tasksPerSecond" }),
        panelOf(memory, { title: "RSS against inputs", x: "inputs", metric: "rssMb", yTitle: "MB" }),
      ],
    },
  },
  options,
);
