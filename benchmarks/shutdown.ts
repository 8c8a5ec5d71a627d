/** How long, from the call, with nothing to do, until every thread and connection is gone? */
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
  const running = await start({ port: server.port, threads });
  const startedAt = performance.now();
  await running.stop();
  await server.waitForClients((clients) => clients.length === 0, 30_000);
  return { ms: performance.now() - startedAt };
}

const rows = await interleave({ points, contenders, rounds: ROUNDS, measure }, options);
report(
  {
    name: "shutdown",
    question: "from the call, with nothing to do, until every thread and connection is gone",
    metrics: [{ key: "ms", title: "ms" }],
    reference: "redthread",
    rows,
    notes: ["by hand: a QUIT in each thread, then piscina.destroy(), which terminates the threads"],
    chart: {
      title: "Idle shutdown, until the server lists no connection",
      yTitle: "ms",
      xTitle: "threads",
      kind: "lines",
      isLog: true,
      panels: [panelOf(rows, { title: "ms against threads", x: "threads", metric: "ms" })],
    },
  },
  options,
);
