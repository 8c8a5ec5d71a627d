/** What does a rolling deploy of a fleet do to Redis, and to the requests in progress? */
import { availableParallelism } from "node:os";
import { startRedis } from "../test/support/redis-server.js";
import { ConnectRate, Member, type Tally } from "./deploy/fleet.js";
import { benchmark, isSmoke } from "./support/benchmark.js";

const THREADS = isSmoke ? 2 : 4;
/** Up to 20: the old and the new processes share the cores of one machine. */
const PROCESSES = isSmoke ? 1 : Math.min(20, 3 * availableParallelism());

await benchmark({
  question:
    "each process of a fleet replaced in turn by a new one, then sent SIGTERM, with 8 requests under way in each",
  columns: {
    served: "served",
    failed: "failed",
    unclean: "exit ≠ 0",
    connects: "connects",
    connectsPerSecond: "at most /s",
    most: "open at most",
    seconds: "seconds",
  },
  points: [{ fleet: `${PROCESSES} x ${THREADS} threads` }],
  contenders: [{ name: "redthread" }, { name: "piscina + global ioredis" }] as const,
  rounds: 1,
  async measure({ name }) {
    await using server = await startRedis();
    const tally: Tally = { served: 0, failed: 0, unclean: 0 };
    const start = (): Promise<Member> => Member.start({ port: server.port, contender: name, threads: THREADS }, tally);
    const old = await Promise.all(Array.from({ length: PROCESSES }, start));
    const startedAt = performance.now();
    const rate = new ConnectRate(server.admin);
    const fresh: Member[] = [];
    for (const member of old) {
      fresh.push(await start());
      await member.end();
    }
    const seconds = (performance.now() - startedAt) / 1_000;
    const connects = await rate.stop();
    await Promise.all(fresh.map((member) => member.end()));
    return { ...tally, connects, connectsPerSecond: rate.mostPerSecond, most: rate.most, seconds };
  },
  notes: [
    "connects, at most /s (in 100 ms) and open are the server's own counts during the roll",
    "by hand: on SIGTERM nothing new is taken, then piscina.close(), then exit",
  ],
  chart: {
    title: "A rolling deploy",
    panels: [
      { title: "requests failed", x: "fleet", metric: "failed", yTitle: "requests" },
      { title: "connects per second, at most", x: "fleet", metric: "connectsPerSecond", yTitle: "per second" },
      { title: "connections open at most", x: "fleet", metric: "most", yTitle: "connections" },
    ],
  },
});
