/** What do the ledger, the deadlines and the channels without listeners cost per task, in ns, in the thread? */
import { startRedis } from "../test/support/redis-server.js";
import { openManager } from "./contenders/redthread/redthread.js";
import type * as Tasks from "./overhead/tasks.js";
import { benchmark, isSmoke } from "./support/benchmark.js";

const CALLS = isSmoke ? 1_000 : 100_000;

await using server = await startRedis();
await using manager = openManager<typeof Tasks>(
  { redis: { port: server.port }, threads: { count: 1 } },
  "overhead/tasks.js",
);
await benchmark({
  question: "what the ledger, the deadlines and the channels that nobody listens to cost per task, in its thread",
  columns: { ns: "ns" },
  points: [{ per: "task" }],
  contenders: (await manager.run("pieces")).map((name) => ({ name })),
  rounds: isSmoke ? 1 : 9,
  warmUps: 2,
  measure: async ({ name }) => ({ ns: await manager.run("overhead", { piece: name, calls: CALLS }) }),
  notes: [
    "a task of two commands counts three times in the ledger and arms two deadlines, of which only the earliest of a connection has a timer",
  ],
  chart: {
    title: "Nanoseconds per task",
    yTitle: "ns",
    panels: [{ title: "ns", x: "per", metric: "ns" }],
  },
});
