/** How long, from nothing until the main thread and every thread have given a result that took Redis? */
import { startRedis } from "../test/support/redis-server.js";
import { BY_HAND, type Lifecycle, redthreadOf } from "./contenders/lifecycle.js";
import { buildsOf } from "./support/build.js";
import { interleave, type Sample } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";

interface ThreadsPoint extends Record<string, string | number> {
  readonly threads: number;
}

const options = parseBenchOptions();
const ROUNDS = options.isSmoke ? 1 : 2;
const points = (options.isSmoke ? [1, 2] : [1, 2, 4, 8, 16, 32]).map((threads): ThreadsPoint => ({ threads }));

const contenders = [...(await Promise.all(buildsOf(options).map(redthreadOf))), BY_HAND];

await using server = await startRedis();

async function measure({ start }: Lifecycle, { threads }: ThreadsPoint): Promise<Sample> {
  const startedAt = performance.now();
  const running = await start({ port: server.port, threads });
  const ms = performance.now() - startedAt;
  await running.stop();
  return { ms };
}

const rows = await interleave({ points, contenders, rounds: ROUNDS, measure }, options);
report(
  {
    name: "startup",
    question: "from nothing until the main thread and every thread have given a result that took Redis",
    metrics: [{ key: "ms", title: "ms" }],
    reference: "redthread",
    rows,
    notes: ["CPU bound: more threads than cores start one after the other, whoever starts them"],
    chart: {
      title: "Start: every thread connected and its first result there",
      yTitle: "ms",
      xTitle: "threads",
      kind: "lines",
      isLog: true,
      panels: [panelOf(rows, { title: "ms against threads", x: "threads", metric: "ms" })],
    },
  },
  options,
);
