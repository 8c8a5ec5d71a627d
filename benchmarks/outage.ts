/** What do a crash, an absence, a blocked loop and a black hole cost, beside ioredis with its defaults? */
import { blockedRivals } from "./outage/blocked.js";
import { CALLERS, callerRivals } from "./outage/callers.js";
import { crashRivals } from "./outage/crashes.js";
import { absenceRivals, blackHoleRivals } from "./outage/recovery.js";
import { benchmark, isSmoke } from "./support/benchmark.js";
import type { Rival, Row } from "./support/interleave.js";

interface Part {
  readonly part: string;
  readonly rivals: readonly Rival[];
  /** The same code as another part, with other figures. */
  readonly isVariant?: true;
}

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

/** One row per figure, because the parts have few figures in common. */
function figures({ point, contender, metrics }: Row): Row[] {
  return Object.entries(metrics).map(([figure, value]) => ({
    point: { ...point, figure },
    contender,
    metrics: { value },
  }));
}

function panel(at: number, figure: string, title = parts[at]!.part) {
  const where = (point: Row["point"]): boolean => point["part"] === parts[at]!.part && point["figure"] === figure;
  return { title, x: "figure", metric: "value", where, yTitle: "", cap: CAP_MS };
}

const named = parts.map(({ part }) => part);
await benchmark({
  question: "a crash, an absence, a blocked loop and a black hole, beside ioredis",
  columns: { value: "value" },
  points: parts.filter(({ isVariant }) => !isSmoke || !isVariant).map(({ part }) => ({ part })),
  contenders: parts.flatMap(({ part, rivals }) =>
    rivals.map((rival) => ({ ...rival, takesPart: (point: { part: string }) => point.part === part })),
  ),
  rounds: 1,
  measure: ({ measure }) => measure(),
  derive: (rows) => rows.flatMap(figures),
  notes: [
    `–: not within ${CAP_MS / 1_000} s; null in the JSON, and drawn as that long`,
    "absence: 8 threads with 4 dedicated clients each beside 40 clients; a listener in Redis' place hangs up and counts",
    "callers: half of them manager.use(), half run(); deadlines of 5 s, ioredis without one; its lines are its error events",
    "blocked: with a command deadline of 1 s; black hole: with deadlines and heartbeat of 1 s",
  ],
  chart: {
    title: "Outages",
    panels: [
      panel(0, "run twice", `INCRs run twice, ${CRASHES} crashes`),
      panel(1, "attempts to connect", `attempts, ${named[1]}`),
      panel(1, "of them at once", `handshakes at once, ${named[1]}`),
      panel(2, "rejected"),
      panel(3, "rejected"),
      panel(5, "all serve again after, ms"),
      panel(6, "slowest call, ms", `slowest call, ms: ${named[6]}`),
      panel(7, "slowest call, ms", `slowest call, ms: ${named[7]}`),
    ],
  },
});
