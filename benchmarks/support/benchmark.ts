/**
 * A benchmark: a script of the parent folder, which says what is measured, at which points and with which contenders.
 * `benchmark()` measures (`interleave.ts`), prints a table and saves figures and chart (`chart.ts`). A script with its own
 * way to measure calls `report()`. Code that only one script uses has a folder of the script's name, contenders that
 * several use are in `contenders/`. A new script is added to the list in `options.ts` as well.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { basename } from "node:path";
import { buildsOf } from "./build.js";
import { drawChart, type Chart, type Panel } from "./chart.js";
import { interleave, type Interleaving, labelOf, type Named, type Point, type Row, type Series } from "./interleave.js";
import { parseBenchOptions } from "./options.js";

export interface Report {
  readonly question: string;
  /** The title of each metric of the samples. */
  readonly columns: Readonly<Record<string, string>>;
  /** The table compares the medians of all contenders with this contender's; without it there are no ratios. */
  readonly reference?: string;
  /** What a reader must know to read the figures. */
  readonly notes?: readonly string[];
  readonly chart: Omit<Chart, "caption" | "panels"> & { readonly panels: readonly PanelOptions[] };
}

export interface PanelOptions {
  readonly title: string;
  /** The name of the points' value on the x axis. */
  readonly x: string;
  readonly metric: string;
  /** Which points the panel shows. Default: all that have the metric. */
  readonly where?: (point: Point) => boolean;
  readonly yTitle?: string;
  /** Larger values are drawn at this height, and so is a value that never came. */
  readonly cap?: number;
}

export interface Benchmark<P extends Point, C extends Named<P>> extends Report, Interleaving<P, C> {
  /** Gets the measured rows and returns the rows of the report. Default: the same. */
  readonly derive?: (rows: Row<P>[]) => Row[] | Promise<Row[]>;
}

type Reported = Report & { readonly rows: readonly Row[] };

/** From dist/benchmarks/support to the repository. */
const FOLDER = new URL("../../../docs/benchmarks/", import.meta.url);

export const options = parseBenchOptions();
export const { isSmoke } = options;
/** Today's build, and with `--beside` the packed one after it. */
export const builds = buildsOf(options);

/** Measures and reports. */
export async function benchmark<P extends Point, C extends Named<P>>(of: Benchmark<P, C>): Promise<void> {
  const rows = await interleave(of, options);
  report(of, of.derive ? await of.derive(rows) : rows);
}

/** Prints the table, and with `--save` writes figures and chart. */
export function report(of: Report, rows: readonly Row[]): void {
  const name = basename(process.argv[1]!, ".js");
  const { question, columns, reference, notes = [], chart } = of;
  const reported = { ...of, rows };
  console.log(`\n${name}: ${question}`);
  console.log(table(reported));
  if (rows.some(({ pairs }) => pairs)) console.log(pairTable(reported));
  for (const note of notes) console.log(`* ${note}`);
  if (!options.isSaved) return;
  const machine = describeMachine();
  const metrics = Object.entries(columns).map(([key, title]) => ({ key, title }));
  const withRatios = rows.map((row) => ({ ...row, ratios: ratiosOf(reported, row) }));
  const figures = { name, question, ...machine, metrics, reference, notes, rows: withRatios };
  save(`${name}.json`, `${JSON.stringify(figures, null, 2)}\n`);
  const caption = `${machine.date} · Node ${machine.node} · ${machine.cpu}, ${machine.cores} cores, load ${machine.load} · npm run bench -- ${name}`;
  const panels = chart.panels.map((panel) => panelOf(rows, panel));
  save(`${name}.svg`, drawChart({ ...chart, panels, caption }));
}

/** A line for each contender. */
function panelOf(rows: readonly Row[], { title, x, metric, where = () => true, yTitle, cap }: PanelOptions): Panel {
  const shown = rows.filter(({ point, metrics }) => metrics[metric] && where(point));
  const names = [...new Set(shown.map(({ contender }) => contender))];
  const capped = (value: number): number => Math.min(value, cap ?? Infinity);
  const lines = names.map((name) => ({
    name,
    marks: shown
      .filter(({ contender }) => contender === name)
      .map(({ point, metrics }) => {
        const { median, min, max } = metrics[metric]!;
        return { x: String(point[x]), y: capped(median), low: capped(min), high: capped(max) };
      }),
  }));
  return { title, lines, ...(yTitle !== undefined && { yTitle }) };
}

function table(of: Reported): string {
  const ratioTitle = of.reference ? ["ratio"] : [];
  const points = pointNames(of.rows);
  const titles = Object.values(of.columns).flatMap((title) => [title, "spread", ...ratioTitle]);
  const body = of.rows.map((row) => {
    const ratios = ratiosOf(of, row);
    const cells = Object.keys(of.columns).flatMap((key) => {
      const series = row.metrics[key];
      if (!series) return ["–", "", ...ratioTitle.map(() => "")];
      return [formatNumber(series.median), spreadOf(series), ...ratioTitle.map(() => formatRatio(ratios[key] ?? NaN))];
    });
    return [...points.map((name) => String(row.point[name] ?? "")), row.contender, ...cells];
  });
  const explained = of.reference
    ? `\nratio: ${of.reference} / contender, of medians; spread: (max − min) / median of the rounds`
    : "";
  return aligned([[...points, "contender", ...titles], ...body]) + explained;
}

/** The ratios that compare two builds: both turns of a pair met the same machine. */
function pairTable({ rows, columns }: Reported): string {
  const points = pointNames(rows);
  const head = [...points, "contender", "metric", "today / beside", "min", "max", "pairs"];
  const body = rows.flatMap(({ point, twinOf, pairs }) =>
    Object.entries(columns).flatMap(([key, title]) => {
      const series = pairs?.[key];
      if (!series) return [];
      const figures = [series.median, series.min, series.max].map((value) => value.toFixed(3));
      return [[...points.map((name) => String(point[name] ?? "")), twinOf!, title, ...figures, String(series.rounds)]];
    }),
  );
  return `\ntoday's build divided by the one beside it, in pairs of turns that follow one another\n${aligned([head, ...body])}`;
}

function pointNames(rows: readonly Row[]): string[] {
  return [...new Set(rows.flatMap(({ point }) => Object.keys(point)))];
}

function ratiosOf({ reference, rows, columns }: Reported, row: Row): Record<string, number> {
  const at = labelOf(row.point);
  const same = rows.find(({ contender, point }) => contender === reference && labelOf(point) === at);
  if (!same) return {};
  const ratio = (key: string): number => (same.metrics[key]?.median ?? NaN) / (row.metrics[key]?.median ?? NaN);
  return Object.fromEntries(Object.keys(columns).map((key) => [key, ratio(key)]));
}

function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString("en-US", { maximumFractionDigits: digits }).replaceAll(",", " ");
}

function formatRatio(ratio: number): string {
  return Number.isFinite(ratio) ? ratio.toFixed(2) : "–";
}

function spreadOf({ median, min, max, rounds }: Series): string {
  return rounds > 1 && median !== 0 ? `${Math.round((100 * (max - min)) / Math.abs(median))} %` : "";
}

/** Aligns columns of numbers to the right, the contenders to the left. */
function aligned(lines: readonly (readonly string[])[]): string {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const isText = lines[0]!.map((title) => title === "contender");
  return lines
    .map((line) =>
      line.map((cell, at) => (isText[at] ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!))).join("  "),
    )
    .join("\n");
}

function describeMachine() {
  const cores = cpus();
  return {
    date: new Date().toISOString().slice(0, 10),
    node: process.version,
    cpu: cores[0]?.model.trim() ?? "unknown CPU",
    cores: cores.length,
    // Above the benchmark's own threads it tells that other programs ran: then only large ratios mean something.
    load: Number(loadavg()[1]!.toFixed(1)),
  };
}

function save(file: string, text: string): void {
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(new URL(file, FOLDER), text);
  console.log(`written: docs/benchmarks/${file}`);
}
