/** A value over the categories of the x axis, with the range of its rounds. */
export interface Mark {
  readonly x: string;
  readonly y: number;
  readonly low?: number;
  readonly high?: number;
}

export interface Line {
  readonly name: string;
  readonly marks: readonly Mark[];
}

export interface Panel {
  readonly title: string;
  /** A panel with a title has its own y axis. */
  readonly yTitle?: string;
  readonly lines: readonly Line[];
}

export interface Chart {
  readonly title: string;
  /** Includes the unit. */
  readonly yTitle?: string;
  readonly xTitle?: string;
  readonly isLog?: boolean;
  /** Default: bars. */
  readonly kind?: "lines" | "bars";
  /** Three to a line; they share one y axis unless a panel has its own. */
  readonly panels: readonly Panel[];
  readonly caption: string;
}

interface Scale {
  readonly y: (value: number) => number;
  readonly ticks: readonly number[];
}

interface Frame {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** Colour-blind readers can tell these apart (after Okabe and Ito), and they are dark enough on white. */
const COLOURS = [
  "#b3001b",
  "#0072b2",
  "#009e73",
  "#cc79a7",
  "#b8860b",
  "#56b4e9",
  "#5b4a9e",
  "#666666",
  "#000000",
  "#8fbc3a",
];
const PANEL = { width: 380, height: 260, left: 66, top: 30, right: 18, bottom: 58 };
const PER_LINE = 3;
const LEGEND_ROW = 20;
const LEGEND_COLUMN = 300;
const TITLE_HEIGHT = 44;
const CAPTION_HEIGHT = 30;

/** An SVG without dependencies, fonts or scripts; its background is light, so that it looks the same everywhere. */
export function drawChart(chart: Chart): string {
  const names = [...new Set(chart.panels.flatMap(({ lines }) => lines.map(({ name }) => name)))];
  const columns = Math.min(PER_LINE, chart.panels.length);
  const panelRows = Math.ceil(chart.panels.length / PER_LINE);
  const width = Math.max(columns * PANEL.width, 2 * PANEL.width);
  const perRow = Math.floor((width - 40) / LEGEND_COLUMN);
  const legendHeight = Math.ceil(names.length / perRow) * LEGEND_ROW + 10;
  const height = TITLE_HEIGHT + legendHeight + panelRows * PANEL.height + CAPTION_HEIGHT;
  const panels = chart.panels.map((panel, at) => {
    const left = (at % PER_LINE) * PANEL.width + PANEL.left;
    const top = TITLE_HEIGHT + legendHeight + Math.floor(at / PER_LINE) * PANEL.height + PANEL.top;
    const size = {
      width: PANEL.width - PANEL.left - PANEL.right,
      height: PANEL.height - PANEL.top - PANEL.bottom,
    };
    return drawPanel(chart, panel, { left, top, ...size }, names);
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222222">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(20, 28, chart.title, `font-size="17" font-weight="bold"`),
    ...names.map((name, at) => legend(name, at, perRow)),
    ...panels.flat(),
    text(20, height - 12, chart.caption, `font-size="11" fill="#555555"`),
    "</svg>\n",
  ].join("\n");
}

function legend(name: string, at: number, perRow: number): string {
  const left = 20 + (at % perRow) * LEGEND_COLUMN;
  const top = TITLE_HEIGHT + Math.floor(at / perRow) * LEGEND_ROW;
  return `<rect x="${left}" y="${top}" width="12" height="12" fill="${colour(at)}"/>${text(left + 18, top + 10, name)}`;
}

function drawPanel(chart: Chart, panel: Panel, frame: Frame, names: readonly string[]): string[] {
  const { title, lines, yTitle } = panel;
  const { left, top, width, height } = frame;
  const scale = scaleOf(yTitle === undefined ? chart.panels : [panel], chart.isLog ?? false, frame);
  const xs = [...new Set(lines.flatMap(({ marks }) => marks.map(({ x }) => x)))];
  const step = width / Math.max(1, xs.length);
  const centre = (x: string): number => left + step * (xs.indexOf(x) + 0.5);
  const drawn = lines.flatMap(({ name, marks }, at) => {
    const fill = colour(names.indexOf(name));
    const shown = marks.filter(({ y }) => Number.isFinite(y) && (y > 0 || !chart.isLog));
    if (chart.kind === "lines") return drawLine(shown, centre, scale, fill);
    const barWidth = (step * 0.8) / lines.length;
    const offset = (at - (lines.length - 1) / 2) * barWidth;
    return shown.map(({ x, y, low = y, high = y }) => {
      const middle = centre(x) + offset;
      const bar = `<rect x="${px(middle - barWidth / 2)}" y="${px(scale.y(y))}" width="${px(barWidth * 0.9)}" height="${px(top + height - scale.y(y))}" fill="${fill}"/>`;
      return bar + whisker(middle, scale.y(low), scale.y(high), "#222222");
    });
  });
  return [
    text(left, top - 10, title, `font-weight="bold"`),
    ...scale.ticks.flatMap((tick) => [
      `<line x1="${left}" x2="${left + width}" y1="${px(scale.y(tick))}" y2="${px(scale.y(tick))}" stroke="#dddddd"/>`,
      text(left - 6, scale.y(tick) + 4, short(tick), `text-anchor="end" font-size="11"`),
    ]),
    ...xs.map((x) => text(centre(x), top + height + 16, x, `text-anchor="middle" font-size="11"`)),
    text(left + width / 2, top + height + 36, chart.xTitle ?? "", `text-anchor="middle" fill="#555555"`),
    `<text transform="translate(${left - 50} ${top + height / 2}) rotate(-90)" text-anchor="middle" fill="#555555">${escape(yTitle ?? chart.yTitle ?? "")}</text>`,
    ...drawn,
    `<line x1="${left}" x2="${left + width}" y1="${top + height}" y2="${top + height}" stroke="#222222"/>`,
  ];
}

function drawLine(marks: readonly Mark[], centre: (x: string) => number, scale: Scale, fill: string): string[] {
  const path = marks.map(({ x, y }) => `${px(centre(x))},${px(scale.y(y))}`).join(" ");
  return [
    `<polyline points="${path}" fill="none" stroke="${fill}" stroke-width="2"/>`,
    ...marks.map(({ x, y, low = y, high = y }) => {
      const dot = `<circle cx="${px(centre(x))}" cy="${px(scale.y(y))}" r="3.5" fill="${fill}"/>`;
      return whisker(centre(x), scale.y(low), scale.y(high), fill) + dot;
    }),
  ];
}

function whisker(x: number, low: number, high: number, stroke: string): string {
  return `<line x1="${px(x)}" x2="${px(x)}" y1="${px(low)}" y2="${px(high)}" stroke="${stroke}" stroke-width="1"/>`;
}

function scaleOf(panels: readonly Panel[], isLog: boolean, { top, height }: Frame): Scale {
  const marks = panels.flatMap(({ lines }) => lines.flatMap((line) => line.marks));
  const values = marks.flatMap(({ y, low = y, high = y }) => [y, low, high]).filter((value) => Number.isFinite(value));
  const positive = values.filter((value) => value > 0);
  if (isLog && positive.length > 0) {
    const from = Math.floor(Math.log10(Math.min(...positive)));
    const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(...positive))));
    const bottom = 10 ** from;
    const share = (value: number): number => (Math.log10(Math.max(value, bottom)) - from) / (to - from);
    const ticks = Array.from({ length: to - from + 1 }, (_, at) => 10 ** (from + at));
    return { y: (value) => top + height * (1 - share(value)), ticks };
  }
  const step = niceStep(Math.max(0, ...values) || 1);
  const most = step * Math.ceil((Math.max(0, ...values) || 1) / step);
  const ticks = Array.from({ length: Math.round(most / step) + 1 }, (_, at) => at * step);
  return { y: (value) => top + height * (1 - Math.max(0, value) / most), ticks };
}

/** 1, 2 or 5 times a power of ten, so that about five steps reach the largest value. */
function niceStep(largest: number): number {
  const rough = largest / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
}

function colour(at: number): string {
  return COLOURS[at % COLOURS.length]!;
}

function short(value: number): string {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (value >= 1e3) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(3)));
}

function px(value: number): string {
  return value.toFixed(1);
}

function text(x: number, y: number, content: string, attributes = ""): string {
  return `<text x="${px(x)}" y="${px(y)}" ${attributes}>${escape(content)}</text>`;
}

function escape(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
