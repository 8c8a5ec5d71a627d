import type { Panel } from "./chart.js";
import type { Point, Row } from "./interleave.js";

export interface PanelOptions<P> {
  readonly title: string;
  /** The point's value that is the category. */
  readonly x: string;
  readonly metric: string;
  readonly where?: (point: P) => boolean;
  readonly yTitle?: string;
}

/** A metric of some rows: a line per contender. */
export function panelOf<P extends Point>(
  rows: readonly Row<P>[],
  { title, x, metric, where = () => true, yTitle }: PanelOptions<P>,
): Panel {
  const mine = rows.filter(({ point, metrics }) => where(point) && metrics[metric]);
  const names = [...new Set(mine.map(({ contender }) => contender))];
  const lines = names.map((name) => ({
    name,
    marks: mine
      .filter(({ contender }) => contender === name)
      .map(({ point, metrics }) => {
        const { median: y, min: low, max: high } = metrics[metric]!;
        return { x: String(point[x]), y, low, high };
      }),
  }));
  return { title, lines, ...(yTitle !== undefined && { yTitle }) };
}
