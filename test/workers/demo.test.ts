import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { MAX_WORDS, parseDemoArgs, UsageError, type DemoOptions } from "../../workers/demo/args.js";
import { runDemo } from "../../workers/demo/demo.js";
import { Progress } from "../../workers/demo/progress.js";
import { chooseQueries, sampleRows } from "../../workers/demo/queries.js";
import { VectorFileWriter } from "../../workers/demo/vector-file.js";
import { VECTORS_FILE } from "../../workers/demo/vectors-source.js";
import { noopLogger } from "../../src/core/log.js";
import { startRedis } from "../support/redis-server.js";

const WORDS = 1_200;
const DIMENSIONS = 20;

/** Words on a circle in 20 dimensions, each with some noise: words with near numbers have near angles. */
async function repositoryWithVectors(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "redthread-demo-test-"));
  t.after(() => rm(root, { recursive: true, force: true }));
  const folder = join(root, ".cache", "vectors");
  await mkdir(folder, { recursive: true });
  const writer = await VectorFileWriter.create(join(folder, VECTORS_FILE));
  writer.begin(
    Array.from({ length: WORDS }, (_, word) => `word${word}`),
    DIMENSIONS,
  );
  for (let word = 0; word < WORDS; word++) {
    const values = Array.from(
      { length: DIMENSIONS },
      (_, i) => Math.sin((word / WORDS) * 2 * Math.PI + i) + Math.sin(word * 31 + i * i * 7) / 4,
    );
    writer.vector(word, Float32Array.from(values));
  }
  await writer.finish();
  return root;
}

function optionsFor(options: Partial<DemoOptions>): DemoOptions {
  return { words: 1_000, threads: 2, json: true, help: false, queries: ["word7"], ...options };
}

test("the demo stores, searches, shuts down, and leaves neither a connection nor a key on the server", async (t) => {
  const root = await repositoryWithVectors(t);
  const server = await startRedis();
  t.after(() => server.stop());
  await server.admin.set("somebody's", "own");
  let output = "";
  const report = await runDemo({
    options: optionsFor({}),
    root,
    env: { REDIS_URL: server.url, REDIS_PASSWORD: "of another server" },
    progress: new Progress({ write: (text) => (output += text) }),
    logger: noopLogger,
    signal: new AbortController().signal,
  });
  assert.deepEqual(
    report.strategies.map(({ name, bytesPerVector }) => [name, bytesPerVector]),
    [
      ["float32", 80],
      ["float16", 40],
      ["int8", 24],
      ["uint8", 28],
      ["sign", 4],
    ],
  );
  for (const { name, recallAt10 } of report.strategies) assert.ok(recallAt10 > (name === "sign" ? 0.2 : 0.95), name);
  assert.equal(report.queries[0]?.word, "word7");
  assert.equal(report.queries[0]?.neighbours.length, 10);
  assert.equal(report.connectionsLeft, 0);
  assert.equal(report.shutdown.tasks.abandoned, 0);
  assert.match(output, /CLIENT LIST of the server: 0 connections/);
  assert.ok(report.nearCache.hitRate > 0.5, output);
  assert.match(output, /near cache: \d+\.\d % of \d+ reads of int8 vectors asked nothing of Redis/);
  assert.deepEqual(await server.admin.keys("*"), ["somebody's"]);
  assert.deepEqual(await server.clients(), []);
});

test("on the embedded server, which tells of no writes, the demo says that the near cache is off, and finds the same", async (t) => {
  const root = await repositoryWithVectors(t);
  let output = "";
  const { nearCache, strategies } = await runDemo({
    options: optionsFor({}),
    root,
    env: { PATH: "" },
    progress: new Progress({ write: (text) => (output += text) }),
    logger: noopLogger,
    signal: new AbortController().signal,
  });
  assert.deepEqual(
    { ...nearCache, reads: 0 },
    { off: "the near cache is off: INFO is refused, or names no run_id", reads: 0, hitRate: 0 },
  );
  assert.match(output, /the near cache is off: INFO .*; \d+ reads went to Redis/);
  for (const { name, recallAt10 } of strategies) assert.ok(recallAt10 > (name === "sign" ? 0.2 : 0.95), name);
});

test("a demo that is stopped in the middle leaves neither a connection nor a key on the server", async (t) => {
  const root = await repositoryWithVectors(t);
  const server = await startRedis();
  t.after(() => server.stop());
  const controller = new AbortController();
  const run = runDemo({
    options: optionsFor({}),
    root,
    env: { REDIS_URL: server.url },
    progress: new Progress({ write: (text) => text.startsWith("searching int8") && controller.abort("SIGINT") }),
    logger: noopLogger,
    signal: controller.signal,
  });
  await assert.rejects(run);
  assert.deepEqual(await server.admin.keys("*"), []);
  assert.deepEqual(await server.clients(), []);
});

test("a word without a vector ends the demo before a server is started", async (t) => {
  const root = await repositoryWithVectors(t);
  const run = runDemo({
    options: optionsFor({ queries: ["word7", "wrod8"] }),
    root,
    env: { REDIS_URL: "redis://127.0.0.1:1" },
    progress: new Progress({ write: () => {} }),
    logger: noopLogger,
    signal: new AbortController().signal,
  });
  await assert.rejects(
    run,
    (error) => error instanceof UsageError && error.message === 'there is no vector for "wrod8"',
  );
});

test("the command line has defaults, and words are searched in lower case and once", () => {
  assert.deepEqual(parseDemoArgs([]), { words: 50_000, threads: undefined, json: false, help: false, queries: [] });
  assert.deepEqual(parseDemoArgs(["--words", "20000", "King", "--threads=3", "--json", "king", "paris"]), {
    words: 20_000,
    threads: 3,
    json: true,
    help: false,
    queries: ["king", "paris"],
  });
});

test("a wrong command line gives one clear sentence", () => {
  const wrong: [string[], string][] = [
    [["--words", "many"], `--words takes a whole number from 1000 to ${MAX_WORDS}, not "many"`],
    [["--words", "999"], `--words takes a whole number from 1000 to ${MAX_WORDS}, not "999"`],
    [["--words", "1e4"], `--words takes a whole number from 1000 to ${MAX_WORDS}, not "1e4"`],
    [["--threads", "0"], '--threads takes a whole number from 1 to 64, not "0"'],
    [["--frobnicate"], "Unknown option '--frobnicate'"],
    [["--words"], "Option '--words <value>' argument missing"],
  ];
  for (const [argv, message] of wrong) {
    assert.throws(
      () => parseDemoArgs(argv),
      (error) => error instanceof UsageError && error.message === message,
    );
  }
});

test("a word that is too rare is refused with the number of words it takes", () => {
  const words = ["a", "b", "c", "d"];
  assert.deepEqual(chooseQueries(["b"], words, 2), [{ word: "b", row: 1 }]);
  assert.throws(() => chooseQueries(["c", "a", "d"], words, 2), {
    message: '"c", "d" is not among the 2 most frequent words: it takes --words 4',
  });
});

test("recall is measured with the same words in every run, over all frequencies", () => {
  assert.deepEqual(sampleRows(3), [0, 1, 2]);
  const rows = sampleRows(20_000);
  assert.equal(rows.length, 100);
  assert.deepEqual(rows.slice(0, 3), [0, 200, 400]);
});

test("a bar redraws itself on a terminal and is plain lines elsewhere", async () => {
  for (const isTTY of [true, false]) {
    let now = 0;
    let output = "";
    const progress = new Progress({ isTTY, columns: 60, write: (text) => (output += text) }, () => now);
    await progress.bar("storing", 4, async (bar) => {
      for (let at = 0; at < 4; at++) {
        now += 1_500;
        bar.add(1);
      }
    });
    const lines = output.split("\n");
    assert.equal(lines.length, isTTY ? 2 : 4);
    assert.equal(output.includes("█"), isTTY);
    assert.equal(output.includes("\r"), isTTY);
    assert.match(output, /storing\s+6\.0 s/);
    for (const drawn of output.split(/[\r\n]/)) assert.ok(drawn.replaceAll("\u001B[K", "").length < 60);
  }
});
