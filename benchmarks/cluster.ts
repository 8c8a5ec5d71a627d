/** When one shard of a Cluster is in trouble, what do the callers of each shard notice, beside ioredis' Cluster? */
import { type Case, clusterRivals } from "./cluster/rivals.js";
import type { Panel } from "./support/chart.js";
import { interleave, type Row } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { report } from "./support/report.js";

const options = parseBenchOptions();
const { isSmoke } = options;
const LEAST_MS = isSmoke ? 500 : 3_000;
const CUTS = isSmoke ? 1 : 20;

const cases: readonly Case[] = [
  { name: "a master dies", fault: "death", atLeastMs: LEAST_MS },
  { name: `${CUTS} cuts of a master`, fault: "cuts", cuts: CUTS, atLeastMs: LEAST_MS },
];

/** One line per shard: the one in trouble, and the others. */
function byShard({ point, contender, metrics }: Row): Row[] {
  const shards = [...new Set(Object.keys(metrics).map((name) => name.split(":")[0]!))];
  return shards.map((shard) => ({
    point: { ...point, shard },
    contender,
    metrics: Object.fromEntries(
      Object.entries(metrics)
        .filter(([name]) => name.startsWith(`${shard}:`))
        .map(([name, series]) => [name.slice(shard.length + 1), series]),
    ),
  }));
}

function panel(of: Case, metric: string, title: string): Panel {
  const mine = rows.filter(({ point }) => point["case"] === of.name);
  const names = [...new Set(mine.map(({ contender }) => contender))];
  const lines = names.map((name) => ({
    name,
    marks: mine
      .filter(({ contender }) => contender === name)
      .map(({ point, metrics }) => ({ x: String(point["shard"]), y: metrics[metric]!.median })),
  }));
  return { title: `${title}: ${of.name}`, yTitle: "", lines };
}

const rows: Row[] = [];
for (const one of cases) {
  const measured = await interleave(
    {
      points: [{ case: one.name }],
      contenders: clusterRivals(one),
      rounds: 1,
      measure: ({ measure }) => measure(),
    },
    { only: new Map(), contenders: options.contenders },
  );
  rows.push(...measured.flatMap(byShard));
}
report(
  {
    name: "cluster",
    question: "one shard of a Cluster in trouble under INCRs, per shard, beside ioredis' Cluster",
    metrics: [
      { key: "success", title: "success %" },
      { key: "failed", title: "failed" },
      { key: "slowest", title: "slowest, ms" },
      { key: "twice", title: "run twice" },
      { key: "lost", title: "acknowledged and lost" },
      { key: "calls", title: "calls" },
    ],
    rows,
    notes: [
      "3 masters with a replica each, cluster-require-full-coverage no, 8 callers per shard, a key for each call",
      "success: acknowledged of all calls; one that is told that it may have run (REPLY_LOST) has failed, as has one given up",
      "replication is asynchronous: what only the dead master had is lost to every client; WAIT is the remedy",
    ],
    chart: {
      title: "One shard of a Cluster in trouble",
      yTitle: "",
      xTitle: "",
      kind: "bars",
      panels: cases.flatMap((one) => [
        panel(one, "success", "success %"),
        panel(one, "failed", "failed calls"),
        panel(one, "twice", "INCRs run twice"),
      ]),
    },
  },
  options,
);
