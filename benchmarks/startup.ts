/** How long, from nothing until the main thread and every thread have given a result that took Redis? */
import { startRedis } from "../test/support/redis-server.js";
import { lifecycles } from "./contenders/lifecycle.js";
import { benchmark, builds, isSmoke } from "./support/benchmark.js";

await using server = await startRedis();
await benchmark({
  question: "from nothing until the main thread and every thread have given a result that took Redis",
  columns: { ms: "ms" },
  reference: "redthread",
  points: (isSmoke ? [1, 2] : [1, 2, 4, 8, 16, 32]).map((threads) => ({ threads })),
  contenders: await lifecycles(builds),
  rounds: isSmoke ? 1 : 2,
  async measure({ start }, { threads }) {
    const startedAt = performance.now();
    const running = await start({ port: server.port, threads });
    const ms = performance.now() - startedAt;
    await running.stop();
    return { ms };
  },
  notes: ["CPU bound: more threads than cores start one after the other, redthread or piscina"],
  chart: {
    title: "Start: every thread connected and its first result there",
    yTitle: "ms",
    xTitle: "threads",
    kind: "lines",
    isLog: true,
    panels: [{ title: "ms against threads", x: "threads", metric: "ms" }],
  },
});
