import { UsageError } from "./args.js";

const FAMOUS = ["king", "paris", "computer", "music", "river"];
const SAMPLE = 100;

/** A word and its row. */
export interface Query {
  readonly word: string;
  readonly row: number;
}

/**
 * The words whose neighbours are shown: the given ones, or a few famous ones. @throws UsageError that names every word
 * that is not among the first `count`
 */
export function chooseQueries(asked: readonly string[], words: readonly string[], count: number): Query[] {
  const wanted = asked.length > 0 ? asked : FAMOUS;
  const queries = wanted.map((word) => ({ word, row: words.indexOf(word) }));
  const unknown = queries.filter(({ row }) => row < 0).map(({ word }) => `"${word}"`);
  if (unknown.length > 0) throw new UsageError(`there is no vector for ${unknown.join(", ")}`);
  const rare = queries.filter(({ row }) => row >= count);
  if (rare.length === 0) return queries;
  const needed = Math.max(...rare.map(({ row }) => row)) + 1;
  const names = rare.map(({ word }) => `"${word}"`).join(", ");
  throw new UsageError(`${names} is not among the ${count} most frequent words: it takes --words ${needed}`);
}

/** The rows for measuring recall: evenly spread over all frequencies, the same in every run. */
export function sampleRows(count: number): number[] {
  const step = Math.max(1, Math.floor(count / SAMPLE));
  return Array.from({ length: Math.min(SAMPLE, count) }, (_, at) => at * step);
}
