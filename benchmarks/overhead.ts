/** What do the ledger, the deadlines and the channels that nobody listens to cost per task, in ns, in the thread? */
import { ConnectionManager } from "redthread";
import { silent } from "../test/support/silent.js";
import { startRedis } from "../test/support/redis-server.js";
import type * as Tasks from "./contenders/overhead-tasks.js";
import { interleave } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";

const options = parseBenchOptions();
const ROUNDS = options.isSmoke ? 1 : 9;
const CALLS = options.isSmoke ? 1_000 : 100_000;

await using server = await startRedis();
await using manager = new ConnectionManager<typeof Tasks>({
  tasks: new URL("./contenders/overhead-tasks.js", import.meta.url),
  env: {},
  logger: silent,
  redis: { port: server.port },
  threads: { count: 1 },
});
const pieces = (await manager.run("pieces")).map((name) => ({ name }));
const rows = await interleave(
  {
    points: [{ per: "task" }],
    contenders: pieces,
    rounds: ROUNDS,
    warmUps: 2,
    measure: async ({ name }) => ({ ns: await manager.run("overhead", { piece: name, calls: CALLS }) }),
  },
  options,
);
report(
  {
    name: "overhead",
    question: "what the ledger, the deadlines and the channels that nobody listens to cost per task, in its thread",
    metrics: [{ key: "ns", title: "ns" }],
    rows,
    notes: [
      "a task of two commands counts three times in the ledger and arms two deadlines, of which only the earliest of a connection has a timer",
    ],
    chart: {
      title: "Nanoseconds per task",
      yTitle: "ns",
      xTitle: "",
      kind: "bars",
      panels: [panelOf(rows, { title: "ns", x: "per", metric: "ns" })],
    },
  },
  options,
);
