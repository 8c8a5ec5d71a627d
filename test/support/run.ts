/**
 * `node dist/test/support/run.js`: every test file, four at a time on two cores. `node --test` has an order of its own, by name:
 * the topologies, which wait for failovers and hardly compute, would all be at its end, beside each other.
 */
import { run } from "node:test";
import { spec, tap } from "node:test/reporters";
import { testFiles } from "./suites.js";

const AT_ONCE = 4;
/** Of a test file. It only turns a hang into a failure. */
const FILE_MS = 300_000;

const isWaiting = (file: string): boolean => file.includes("/topologies/");

/** Those that wait are spread evenly, so that about one in four files leaves its core to the others. */
function spread(files: readonly string[]): string[] {
  const places = [files.filter(isWaiting), files.filter((file) => !isWaiting(file))].flatMap((part) =>
    part.map((file, at) => ({ file, place: at / part.length })),
  );
  return places.toSorted((a, b) => a.place - b.place).map(({ file }) => file);
}

const files = spread(testFiles().toSorted());
if (files.length === 0) throw new Error("there are no tests in dist/test: run npm run build:test");
// Who stops the run stops the files that it has started, with their servers.
const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
const events = run({ files, concurrency: AT_ONCE, timeout: FILE_MS, signal: stop.signal });
events.on("test:fail", ({ todo }) => {
  if (todo === undefined || todo === false) process.exitCode = 1;
});
(process.stdout.isTTY ? events.compose(new spec()) : events.compose(tap)).pipe(process.stdout);
