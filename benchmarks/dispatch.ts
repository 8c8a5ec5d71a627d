/**
 * How many tasks per second do plain `run()` calls give, beside what one writes by hand? GET 4 kB, n x sha256, SET;
 * n = "10ms" is as many as keep a core busy for so long.
 */
import { startRedis } from "../test/support/redis-server.js";
import type { DispatchPoint, RoundInput } from "./dispatch/child.js";
import { choosePoints, type Row } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { inOwnProcess, mergeRounds } from "./support/own-processes.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import { roundsOf } from "./support/rounds-of.js";

const KEYS = 256;
const options = parseBenchOptions();
const CALLERS = options.isSmoke ? [64] : [1, 8, 64];
const ROUNDS = options.isSmoke ? 1 : 4;

const roundsPerTask: RoundInput["roundsPerTask"] = { 0: 0, 20: 20, 100: 100, 1000: 1_000, "10ms": roundsOf(10) };
const sizes = options.isSmoke ? ["0", "100"] : Object.keys(roundsPerTask);
const points = choosePoints(
  CALLERS.flatMap((callers) => sizes.map((n): DispatchPoint => ({ callers, n }))),
  options,
);

await using server = await startRedis();
for (let i = 0; i < KEYS; i++) await server.admin.set(`bench:${i}`, "x".repeat(4_096));
const byRound: Row<DispatchPoint>[][] = [];
for (let round = 0; round < ROUNDS; round++) {
  const input: RoundInput = { port: server.port, keys: KEYS, round, points, roundsPerTask };
  byRound.push(await inOwnProcess(new URL("./dispatch/child.js", import.meta.url), input));
}
const rows = mergeRounds(byRound);
report(
  {
    name: "dispatch",
    question: "tasks of GET 4 kB + n x sha256 + SET through 2 threads, from callers that wait for theirs",
    metrics: [
      { key: "tasksPerSecond", title: "tasks/s" },
      { key: "cpuPerTask", title: "CPU µs/task" },
    ],
    reference: "redthread run()",
    rows,
    notes: [
      "CPU is the whole process's, of all its threads; the server's is not in it",
      "each round has a process of its own",
    ],
    chart: {
      title: "Tasks per second: GET 4 kB + n x sha256 + SET, 2 threads",
      yTitle: "tasks per second",
      xTitle: "n (10ms: that much CPU)",
      kind: "bars",
      isLog: true,
      panels: CALLERS.map((callers) =>
        panelOf(rows, {
          title: `${callers} ${callers === 1 ? "caller" : "callers"}`,
          x: "n",
          metric: "tasksPerSecond",
          where: (point) => point.callers === callers,
        }),
      ),
    },
  },
  options,
);
