/** What does a rolling deploy of a fleet do to Redis, and to the requests under way? */
import { availableParallelism } from "node:os";
import { startRedis } from "../test/support/redis-server.js";
import type { ChildInput } from "./deploy/child.js";
import { ConnectRate } from "./deploy/connect-rate.js";
import { type FleetTally, Member } from "./deploy/fleet.js";
import { interleave, type Sample } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { panelOf } from "./support/panel.js";
import { report } from "./support/report.js";

const options = parseBenchOptions();
const THREADS = options.isSmoke ? 2 : 4;
/** 20 where the machine can: two generations of processes share its cores. */
const PROCESSES = options.isSmoke ? 1 : Math.min(20, 3 * availableParallelism());
const contenders = [{ name: "redthread" }, { name: "piscina + global ioredis" }] as const;

async function deploy(contender: ChildInput["contender"]): Promise<Sample> {
  await using server = await startRedis();
  const tally: FleetTally = { served: 0, failed: 0, unclean: 0 };
  const start = async (): Promise<Member> => {
    const member = new Member({ port: server.port, contender, threads: THREADS }, tally);
    await member.ready;
    return member;
  };
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
}

const fleet = `${PROCESSES} x ${THREADS} threads`;
const rows = await interleave(
  { points: [{ fleet }], contenders, rounds: 1, measure: ({ name }) => deploy(name) },
  options,
);
report(
  {
    name: "deploy",
    question:
      "each process of a fleet replaced in turn by a new one, then sent SIGTERM, with 8 requests under way in each",
    metrics: [
      { key: "served", title: "served" },
      { key: "failed", title: "failed" },
      { key: "unclean", title: "exit ≠ 0" },
      { key: "connects", title: "connects" },
      { key: "connectsPerSecond", title: "at most /s" },
      { key: "most", title: "open at most" },
      { key: "seconds", title: "seconds" },
    ],
    rows,
    notes: [
      "connects, at most /s (in 100 ms) and open are the server's own counts during the roll",
      "by hand: on SIGTERM nothing new is taken, then piscina.close(), then exit",
    ],
    chart: {
      title: "A rolling deploy",
      yTitle: "",
      xTitle: "",
      kind: "bars",
      panels: [
        panelOf(rows, { title: "requests failed", x: "fleet", metric: "failed", yTitle: "requests" }),
        panelOf(rows, {
          title: "connects per second, at most",
          x: "fleet",
          metric: "connectsPerSecond",
          yTitle: "per second",
        }),
        panelOf(rows, { title: "connections open at most", x: "fleet", metric: "most", yTitle: "connections" }),
      ],
    },
  },
  options,
);
