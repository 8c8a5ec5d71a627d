/** What do a crash, an absence, a blocked loop and a black hole cost, beside ioredis as it comes? */
import { absenceRivals } from "./outage/absence.js";
import { blackHoleRivals } from "./outage/black-hole.js";
import { blockedRivals } from "./outage/blocked.js";
import { CALLERS, callerRivals } from "./outage/callers.js";
import { crashRivals } from "./outage/crashes.js";
import type { Rival } from "./outage/rival.js";
import type { Panel } from "./support/chart.js";
import { interleave, type Row } from "./support/interleave.js";
import { parseBenchOptions } from "./support/options.js";
import { report } from "./support/report.js";

interface Part {
  readonly part: string;
  readonly rivals: readonly Rival[];
  /** The same code as another part's, with other figures. */
  readonly isVariant?: true;
}

const options = parseBenchOptions();
const { isSmoke } = options;
const CRASHES = isSmoke ? 1 : 20;
const AWAY_MS = isSmoke ? 300 : 10_000;
const BLOCK_MS = isSmoke ? 600 : 3_000;
const DARK_MS = isSmoke ? 300 : 5_000;
const CAP_MS = isSmoke ? 500 : 10_000;
const LARGE_MB = isSmoke ? 1 : 20;

const blackHole = { darkMs: DARK_MS, capMs: CAP_MS };
const parts: readonly Part[] = [
  { part: `${CRASHES} crashes under INCRs`, rivals: crashRivals(CRASHES) },
  { part: `Redis away for ${AWAY_MS / 1_000} s`, rivals: absenceRivals(AWAY_MS) },
  {
    part: `blocked ${BLOCK_MS / 1_000} s, 200 replies waiting`,
    rivals: blockedRivals({ replies: 200, bytes: 100, blockMs: BLOCK_MS }),
  },
  {
    part: `blocked ${BLOCK_MS / 1_000} s, 20 replies of ${LARGE_MB} MB`,
    rivals: blockedRivals({ replies: 20, bytes: LARGE_MB * 1_000_000, blockMs: BLOCK_MS }),
    isVariant: true,
  },
  {
    part: `black hole of ${DARK_MS / 1_000} s, back whole`,
    rivals: blackHoleRivals({ ...blackHole, back: "whole" }),
    isVariant: true,
  },
  {
    part: `black hole of ${DARK_MS / 1_000} s, back for new connections`,
    rivals: blackHoleRivals({ ...blackHole, back: "for new connections" }),
  },
  ...(["wait", "fail"] as const).map((whenDown) => ({
    part: `${CALLERS} callers, Redis away for ${AWAY_MS / 1_000} s, whenDown ${whenDown}`,
    rivals: callerRivals(whenDown, AWAY_MS),
  })),
];

/** One line per figure: the parts have little in common. */
function figures({ point, contender, metrics }: Row): Row[] {
  return Object.entries(metrics).map(([figure, series]) => ({
    point: { ...point, figure },
    contender,
    metrics: { value: series },
  }));
}

function panel(part: string, figure: string, title: string): Panel {
  const mine = rows.filter(({ point }) => point["part"] === part && point["figure"] === figure);
  const lines = mine.map(({ contender, metrics }) => {
    // What never came is drawn as high as it was waited for.
    const y = Math.min(metrics["value"]!.median, CAP_MS);
    return { name: contender, marks: [{ x: figure, y }] };
  });
  return { title, yTitle: "", lines };
}

const rows: Row[] = [];
for (const { part, rivals } of isSmoke ? parts.filter(({ isVariant }) => !isVariant) : parts) {
  const measured = await interleave(
    { points: [{ part }], contenders: rivals, rounds: 1, measure: ({ measure }) => measure() },
    { only: new Map(), contenders: options.contenders },
  );
  rows.push(...measured.flatMap(figures));
}
const named = parts.map(({ part }) => part);
report(
  {
    name: "outage",
    question: "a crash, an absence, a blocked loop and a black hole, beside ioredis",
    metrics: [{ key: "value", title: "value" }],
    rows,
    notes: [
      `–: not within ${CAP_MS / 1_000} s; null in the JSON, and drawn as that long`,
      "absence: 8 threads with 4 dedicated clients each beside 40 clients; a listener in Redis' place hangs up and counts",
      "callers: half of them manager.use(), half run(); deadlines of 5 s, ioredis without one; its lines are its error events",
      "blocked: with a command deadline of 1 s; black hole: with deadlines and heartbeat of 1 s",
    ],
    chart: {
      title: "Outages",
      yTitle: "",
      xTitle: "",
      kind: "bars",
      panels: [
        panel(named[0]!, "run twice", `INCRs run twice, ${CRASHES} crashes`),
        panel(named[1]!, "attempts to connect", `attempts, ${named[1]}`),
        panel(named[1]!, "of them at once", `handshakes at once, ${named[1]}`),
        panel(named[2]!, "rejected", named[2]!),
        panel(named[3]!, "rejected", named[3]!),
        panel(named[5]!, "all serve again after, ms", named[5]!),
        panel(named[6]!, "slowest call, ms", `slowest call, ms: ${named[6]}`),
        panel(named[7]!, "slowest call, ms", `slowest call, ms: ${named[7]}`),
      ],
    },
  },
  options,
);
