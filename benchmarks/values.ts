/** What do values cost that cross between the threads, by their shape, and what do Buffers take that a caller keeps? */
import { startRedis } from "../test/support/redis-server.js";
import { fillKeys, KEYS } from "./contenders/contender-process.js";
import { buildsOf } from "./support/build.js";
import type { Rate } from "./support/closed-loop.js";
import { choosePoints, interleave, mergeRounds, type Named, type Row, turns } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { OwnProcess } from "./support/own-process.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";
import type { Kept, KeptLoad, ShapeName, ValuesInput, ValuesLoad } from "./values/child.js";

interface ValuesPoint extends Record<string, string | number> {
  readonly shape: ShapeName;
  readonly callers: number;
}

interface KeptPoint extends Record<string, string | number> {
  readonly shape: string;
  readonly callers: number;
}

interface Contender extends Named<KeptPoint> {
  readonly name: string;
  readonly open: (...flags: string[]) => ValuesProcess;
}

type ValuesProcess = OwnProcess<ValuesLoad | KeptLoad, Rate | Kept>;

const options = parseBenchOptions();
const { isSmoke } = options;
/** Each with a fresh process of each build: two with the same code differ for as long as they live. */
const ROUNDS = isSmoke ? 1 : 10;
/** One process' memory differs from the next one's by 5 %. */
const KEPT_ROUNDS = 1;
const TURN = isSmoke ? { turns: 1, leadMs: 2, ms: 10 } : { turns: 10, leadMs: 5, ms: 20 };
/** Of each shape that is asked for: what crosses is copied by code that the compiler has to see some ten thousand times. */
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

const chosen = choosePoints<KeptPoint>(
  [
    ...SHAPES.flatMap((shape) => CALLERS[shape].map((callers): ValuesPoint => ({ shape, callers }))),
    ...[1, 64].map((callers): KeptPoint => ({ shape: KEPT, callers })),
  ],
  options,
);
const keptPoints = chosen.filter(({ shape }) => shape === KEPT);
const points = chosen.filter((point): point is ValuesPoint => point.shape !== KEPT);
const builds = buildsOf(options);

await using server = await startRedis();
await fillKeys(server.admin);

const input: ValuesInput = { port: server.port, keys: KEYS };
const contenders = builds.map((build): Contender => ({
  ...build.named("redthread"),
  open: (...flags) => new OwnProcess(build.script("values/child.js"), input, flags),
}));

async function oneRound(round: number): Promise<Row<ValuesPoint>[]> {
  const open = contenders.map((contender) => ({ ...contender, process: contender.open() }));
  for (const at of turns(open.length, round)) {
    for (const warmUp of WARM_UPS) {
      for (const shape of new Set(points.map((point) => point.shape)))
        await open[at]!.process.ask({ shape, ...warmUp, leadMs: 0 });
    }
  }
  const rows = await interleave<ValuesPoint, (typeof open)[number]>(
    {
      points,
      contenders: open,
      rounds: TURN.turns,
      pass: round,
      warmUps: isSmoke ? 0 : 2,
      measure: ({ process }, point) => process.ask({ ...point, leadMs: TURN.leadMs, ms: TURN.ms }),
    },
    options,
  );
  for (const { process } of open) await process[Symbol.asyncDispose]();
  return rows;
}

async function keep({ open }: Contender, { callers }: KeptPoint): Promise<Kept> {
  await using process = open("--expose-gc");
  return (await process.ask({ results: RESULTS, callers })) as Kept;
}

const byRound: Row<ValuesPoint>[][] = [];
if (points.length > 0) for (let round = 0; round < ROUNDS; round++) byRound.push(await oneRound(round));
const rates = byRound.length > 0 ? mergeRounds(byRound) : [];
const kept =
  keptPoints.length > 0
    ? await interleave({ points: keptPoints, contenders, rounds: KEPT_ROUNDS, measure: keep }, options)
    : [];
report(
  {
    name: "values",
    question: "values that cross between the threads: tasks through 2 threads by the shape of input and result",
    metrics: [
      { key: "tasksPerSecond", title: "tasks/s" },
      { key: "cpuPerTask", title: "CPU µs/task" },
      { key: "rssMiB", title: "RSS MiB" },
      { key: "buffersMiB", title: "buffers MiB" },
    ],
    ...(builds.length > 1 && { reference: "redthread" }),
    rows: [...rates, ...kept],
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
      kind: "bars",
      panels: SHAPES.map((shape) =>
        panelOf(rates, {
          title: shape,
          x: "callers",
          metric: "tasksPerSecond",
          where: (point) => point.shape === shape,
        }),
      ),
    },
  },
  options,
);
