/** What does it cost when values cross between the threads, by their shape, and how much memory do kept Buffers take? */
import { startRedis } from "../test/support/redis-server.js";
import { fillKeys, KEYS } from "./contenders/process.js";
import { builds, isSmoke, options, report } from "./support/benchmark.js";
import type { Build } from "./support/build.js";
import { choosePoints, interleave, interleaveProcesses, type Row } from "./support/interleave.js";
import type { Rate } from "./support/loops.js";
import { OwnProcess } from "./support/own-process.js";
import type { Kept, KeptLoad, ShapeName, ValuesInput, ValuesLoad } from "./values/child.js";

interface ValuesPoint extends Record<string, string | number> {
  readonly shape: string;
  readonly callers: number;
}

/** Each with a fresh process of each build. */
const PASSES = isSmoke ? 1 : 10;
const TURN = isSmoke ? { turns: 1, leadMs: 2, ms: 10 } : { turns: 10, leadMs: 5, ms: 20 };
/** For each chosen shape: the compiler has to see the code that copies it some ten thousand times. */
const WARM_UPS = isSmoke
  ? [{ callers: 64, ms: 5 }]
  : [
      { callers: 64, ms: 800 },
      { callers: 1, ms: 200 },
    ];
const CALLERS: Readonly<Record<ShapeName, readonly number[]>> = {
  string: [1, 8, 64],
  number: [1, 8, 64],
  flat: [1, 8, 64],
  nested: [1, 8, 64],
  frozen: [64],
  "12-byte Buffer": [1, 8],
  "12-byte Buffer, waits once": [64],
  "4 kB Buffer": [1, 64],
};
const SHAPES = Object.keys(CALLERS) as ShapeName[];
const RESULTS = isSmoke ? 1_000 : 100_000;
const KEPT = `${RESULTS.toLocaleString("en-US").replaceAll(",", " ")} kept 12-byte Buffers`;

const chosen = choosePoints(
  [
    ...SHAPES.flatMap((shape) => CALLERS[shape].map((callers): ValuesPoint => ({ shape, callers }))),
    ...[1, 64].map((callers): ValuesPoint => ({ shape: KEPT, callers })),
  ],
  options,
);
const keptPoints = chosen.filter(({ shape }) => shape === KEPT);
const points = chosen.filter(({ shape }) => shape !== KEPT);
const shapes = [...new Set(points.map(({ shape }) => shape as ShapeName))];

await using server = await startRedis();
await fillKeys(server.admin);

const contenders = builds.map((build) => ({ ...build.named("redthread"), build }));

function open<Load extends object, Answer>(build: Build, ...flags: string[]): OwnProcess<Load, Answer> {
  const input: ValuesInput = { port: server.port, keys: KEYS };
  return new OwnProcess(build.script("values/child.js"), input, flags);
}

async function rates(): Promise<Row[]> {
  return interleaveProcesses(
    {
      points,
      contenders,
      passes: PASSES,
      open: ({ build }) => open<ValuesLoad, Rate>(build),
      async warm(process) {
        for (const warmUp of WARM_UPS) for (const shape of shapes) await process.ask({ shape, ...warmUp, leadMs: 0 });
      },
      rounds: TURN.turns,
      warmUps: isSmoke ? 0 : 2,
      measure: ({ process }, { shape, callers }) =>
        process.ask({ shape: shape as ShapeName, callers, leadMs: TURN.leadMs, ms: TURN.ms }),
    },
    options,
  );
}

async function kept(): Promise<Row[]> {
  return interleave(
    {
      points: keptPoints,
      contenders,
      rounds: 1, // the memory of two processes differs by 5 %
      async measure({ build }, { callers }) {
        await using process = open<KeptLoad, Kept>(build, "--expose-gc");
        return await process.ask({ results: RESULTS, callers });
      },
    },
    options,
  );
}

const rows = [...(points.length > 0 ? await rates() : []), ...(keptPoints.length > 0 ? await kept() : [])];
report(
  {
    question: "values that cross between the threads: tasks through 2 threads by the shape of input and result",
    columns: {
      tasksPerSecond: "tasks/s",
      cpuPerTask: "CPU µs/task",
      rssMiB: "RSS MiB",
      buffersMiB: "buffers MiB",
    },
    ...(builds.length > 1 && { reference: "redthread" }),
    notes: [
      "string, number, flat (4 fields) and nested (10 objects and arrays) are input and result of GET 4 kB + SET; frozen is the result of it, one object for all tasks",
      "tasks that give a Buffer do nothing else, and those of 12 bytes get a number",
      "each build has a process to itself in each round; they take turns, each with a lead that does not count",
      "RSS and buffers: what process and main thread grow by while all results are kept, garbage collected before and after; a process that has grown by 1 500 MiB stops, and its figures are scaled up",
    ],
    chart: {
      title: "Tasks per second by the shape of their values, 2 threads",
      yTitle: "tasks per second",
      xTitle: "callers",
      panels: SHAPES.map((name) => ({
        title: name,
        x: "callers",
        metric: "tasksPerSecond",
        where: ({ shape }) => shape === name,
      })),
    },
  },
  rows,
);
