import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { closedLoop } from "../benchmarks/support/loops.js";
import { interleave, mergeRounds } from "../benchmarks/support/interleave.js";
import { parseBenchOptions } from "../benchmarks/support/options.js";
import { fixture } from "./support/manage.js";

const TARBALL = fileURLToPath(import.meta.url); // any file: nothing is installed here
const RUN = new URL("../benchmarks/run.js", import.meta.url);
const EVERYTHING = { only: new Map<string, string>(), contenders: [] };

test("--beside names the packed build that contenders run with as well", () => {
  assert.equal(parseBenchOptions(["dispatch", "--beside", TARBALL], "run").beside, TARBALL);
  assert.equal(parseBenchOptions(["--beside", TARBALL], "values").beside, TARBALL);
  assert.equal("beside" in parseBenchOptions(["dispatch"], "run"), false);
});

test("--beside is refused where a benchmark cannot run an older build, and with --save", () => {
  assert.throws(() => parseBenchOptions(["dispatch", "overhead", "--beside", TARBALL], "run"), {
    message: /^--beside does not go with overhead, only with dispatch, /,
  });
  assert.throws(() => parseBenchOptions(["--beside", TARBALL], "cluster"), /does not go with cluster/);
  assert.throws(() => parseBenchOptions(["--beside", TARBALL], "run"), /does not go with outage, cluster/);
  assert.throws(() => parseBenchOptions(["dispatch", "--save", "--beside", TARBALL], "run"), /--save goes with/);
  assert.throws(() => parseBenchOptions(["dispatch", "--beside", `${TARBALL}.none`], "run"), /there is no file/);
});

test("a twin's row has the quotients of today's build and the older one, round by round", async () => {
  const contenders = [
    { name: "ours", figures: [10, 30, 20] },
    { name: "ours beside", twinOf: "ours", figures: [10, 10, 10] },
    { name: "a rival", figures: [1, 1, 1] },
  ];
  const points = [{ callers: 1 }, { callers: 8 }];
  const measured = (pass: number, rounds: number) =>
    interleave(
      { points, contenders, rounds, pass, measure: async ({ figures }, _point, round) => ({ n: figures[round]! }) },
      EVERYTHING,
    );
  const expected = { median: 2, min: 1, max: 3, rounds: 3 };
  const ofPairs = (rows: Awaited<ReturnType<typeof measured>>) => rows.map(({ pairs }) => pairs?.["n"]);
  const each = [undefined, expected, undefined];
  assert.deepEqual(ofPairs(await measured(0, 3)), [...each, ...each]);
  const passes = [await measured(0, 1), await measured(1, 1), await measured(2, 1)];
  assert.deepEqual(ofPairs(mergeRounds(passes)), [...each, ...each]);
});

test("a closed loop counts from the task after the lead, at least one of each caller", async () => {
  const taken: number[] = [];
  let next = 0;
  const drive = async (inputs: Iterable<number>): Promise<void> => {
    for (const input of inputs) taken.push(input);
  };
  const { tasksPerSecond } = await closedLoop({ callers: 8, leadMs: 0, ms: 0, next: () => next++, drive });
  assert.deepEqual(
    taken,
    Array.from({ length: 16 }, (_, n) => n),
  );
  assert.ok(tasksPerSecond > 0);
});

/** How a program fails: it settles once the program has ended and no process has its output open any more. */
async function failureOf(program: URL | string, ...args: string[]): Promise<{ code: number; stderr: string }> {
  const ended = promisify(execFile)(process.execPath, [fileURLToPath(program), ...args], { timeout: 60_000 });
  return ended.then(
    () => assert.fail("it ended with 0"),
    (error: unknown) => error as { code: number; stderr: string },
  );
}

test("a contender that fails ends its benchmark, with its error, and the contenders that cannot close", async () => {
  const { code, stderr } = await failureOf(fixture("failing-benchmark"));
  assert.equal(code, 1);
  assert.match(stderr, /this contender fails/);
});

test("a benchmark that fails ends the smoke run, and the errors of those beside it are shown as well", async () => {
  const { code, stderr } = await failureOf(
    RUN,
    "dispatch",
    "latency",
    "values",
    "map",
    "--smoke",
    "--only",
    "moon=full",
  );
  assert.equal(code, 1);
  assert.equal(stderr.match(/Error: --only leaves none of/g)?.length, 3, stderr);
});
