/** How long, from the call, with nothing to do, until every thread and connection is gone? */
import { startRedis } from "../test/support/redis-server.js";
import { lifecycles } from "./contenders/lifecycle.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";

await using server = await startRedis();
await benchmark({
  question: "from the call, with nothing to do, until every thread and connection is gone",
  columns: { ms: "ms" },
  reference: "redthread",
  points: (isSmoke ? [1, 2] : [1, 2, 4, 8, 16, 32]).map((threads) => ({ threads })),
  contenders: await lifecycles(builds),
  rounds: isSmoke ? 1 : 2,
  async measure({ start }, { threads }) {
    const running = await start({ port: server.port, threads });
    const startedAt = performance.now();
    await running.stop();
    await server.waitForClients((clients) => clients.length === 0, 30_000);
    return { ms: performance.now() - startedAt };
  },
  notes: ["by hand: a QUIT in each thread, then piscina.destroy(), which terminates the threads"],
  chart: {
    title: "Idle shutdown, until the server lists no connection",
    yTitle: "ms",
    xTitle: "threads",
    kind: "lines",
    isLog: true,
    panels: [{ title: "ms against threads", x: "threads", metric: "ms" }],
  },
});
