import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { drawChart, type Chart } from "./chart.js";
import { labelOf, type Row } from "./interleave.js";
import type { BenchOptions } from "./options.js";

export interface Metric {
  /** Of a sample. */
  readonly key: string;
  readonly title: string;
}

export interface Report {
  /** Of the script, and of the files. */
  readonly name: string;
  readonly question: string;
  readonly metrics: readonly Metric[];
  /** The contender whose medians are divided by everybody's; without one no ratios are given. */
  readonly reference?: string;
  readonly rows: readonly Row[];
  /** What a reader must know to read the figures. */
  readonly notes?: readonly string[];
  readonly chart: Omit<Chart, "caption">;
}

/** From dist/benchmarks/support to the repository. */
const FOLDER = new URL("../../../docs/benchmarks/", import.meta.url);

/** Prints the table, and saves it as JSON and as a chart if asked to. */
export function report(of: Report, { isSaved }: BenchOptions): void {
  console.log(`\n${of.name}: ${of.question}`);
  console.log(table(of));
  if (of.rows.some(({ pairs }) => pairs)) console.log(pairTable(of));
  for (const note of of.notes ?? []) console.log(`* ${note}`);
  if (!isSaved) return;
  const machine = describeMachine();
  const { name, question, metrics, reference, rows, notes = [] } = of;
  const ratios = rows.map((row) => ({ ...row, ratios: ratiosOf(of, row) }));
  mkdirSync(FOLDER, { recursive: true });
  save(
    `${name}.json`,
    `${JSON.stringify({ name, question, ...machine, metrics, reference, notes, rows: ratios }, null, 2)}\n`,
  );
  const caption = `${machine.date} · Node ${machine.node} · ${machine.cpu}, ${machine.cores} cores, load ${machine.load} · npm run bench -- ${name}`;
  save(`${name}.svg`, drawChart({ ...of.chart, caption }));
}

export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString("en-US", { maximumFractionDigits: digits }).replaceAll(",", " ");
}

function formatRatio(ratio: number): string {
  return Number.isFinite(ratio) ? ratio.toFixed(2) : "–";
}

function table(of: Report): string {
  const points = pointNames(of.rows);
  const ratioTitle = of.reference ? ["ratio"] : [];
  const head = [...points, "contender", ...of.metrics.flatMap(({ title }) => [title, "spread", ...ratioTitle])];
  const body = of.rows.map((row) => {
    const ratios = ratiosOf(of, row);
    const cells = of.metrics.flatMap(({ key }) => {
      const series = row.metrics[key];
      if (!series) return ["–", "", ...ratioTitle.map(() => "")];
      const { median, min, max, rounds } = series;
      const spread = rounds > 1 && median !== 0 ? `${Math.round((100 * (max - min)) / Math.abs(median))} %` : "";
      return [formatNumber(median), spread, ...ratioTitle.map(() => formatRatio(ratios[key] ?? NaN))];
    });
    return [...points.map((name) => String(row.point[name] ?? "")), row.contender, ...cells];
  });
  const explained = of.reference
    ? `\nratio: ${of.reference} / contender, of medians; spread: (max − min) / median of the rounds`
    : "";
  return aligned([head, ...body]) + explained;
}

/** The ratios that tell two builds apart: both of a pair have met the same machine. */
function pairTable({ rows, metrics }: Report): string {
  const points = pointNames(rows);
  const head = [...points, "contender", "metric", "today / beside", "min", "max", "pairs"];
  const body = rows.flatMap(({ point, twinOf, pairs }) =>
    metrics.flatMap(({ key, title }) => {
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

function ratiosOf({ reference, rows, metrics }: Report, row: Row): Record<string, number> {
  const at = labelOf(row.point);
  const same = rows.find(({ contender, point }) => contender === reference && labelOf(point) === at);
  if (!same) return {};
  return Object.fromEntries(
    metrics.map(({ key }) => [key, (same.metrics[key]?.median ?? NaN) / (row.metrics[key]?.median ?? NaN)]),
  );
}

/** Columns under one another; those of numbers to the right. */
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
    // Above the benchmark's own threads it says that others were at work: then only large ratios mean something.
    load: Number(loadavg()[1]!.toFixed(1)),
  };
}

function save(file: string, text: string): void {
  const url = new URL(file, FOLDER);
  writeFileSync(url, text);
  console.log(`written: docs/benchmarks/${file}`);
}
