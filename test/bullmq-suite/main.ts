/**
 * `node dist/test/bullmq-suite/main.js CHECKOUT [TEST ...]`: BullMQ's own tests of workers, from a checkout of its
 * sources, with the installed BullMQ: once unchanged, once with workers of `redthread/bullmq`. Prints the tests that
 * fail only with the latter.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { startRedis } from "../support/redis-server.js";
import { root } from "../support/suites.js";

const TOOLS = ["vitest@4.1.11", "vite@8.3.8", "sinon@22.1.0", "progress@2.0.3"];
const TESTS = [
  "job_cancellation",
  "job_cancellation_advanced",
  "worker",
  "worker.redis",
  "concurrency",
  "delay",
  "pause",
];

const [checkout, ...named] = process.argv.slice(2);
if (!checkout) throw new Error("name a checkout of BullMQ: node dist/test/bullmq-suite/main.js CHECKOUT [TEST ...]");
const folder = mkdtempSync(join(tmpdir(), "bullmq-suite-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
for (const part of ["tests", "vitest.setup.ts"])
  cpSync(resolve(checkout, part), join(folder, part), { recursive: true });
const modules = join(root, "node_modules");
const alias = [
  [String.raw`^(\.{1,2}/)+src/classes$`, join(import.meta.dirname, "classes.js")],
  [String.raw`^(\.{1,2}/)+src/([^.]+)$`, join(modules, "bullmq/dist/cjs/$2")],
  ["^ioredis$", join(modules, "ioredis")],
].map(
  ([find, replacement]) => `{ find: new RegExp(${JSON.stringify(find)}), replacement: ${JSON.stringify(replacement)} }`,
);
writeFileSync(
  join(folder, "vitest.config.mjs"),
  `export default { resolve: { alias: [${alias.join(", ")}] }, test: { setupFiles: ["./vitest.setup.ts"],
    testTimeout: 10_000, hookTimeout: 10_000, fileParallelism: false } };`,
);
const quiet = ["--no-audit", "--no-fund", "--loglevel=error"];
spawnSync("npm", ["install", "--prefix", folder, ...quiet, ...TOOLS], { stdio: "inherit" });

await using server = await startRedis();
const plain = failures("PLAIN");
const ours = failures("OURS");
console.log(`${plain.passed} pass with BullMQ's Worker, ${ours.passed} with redthread's; only there fail:`);
for (const name of ours.failed) if (!plain.failed.has(name)) console.log(`  ${name}`);

interface Report {
  readonly numPassedTests: number;
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
  }[];
}

function failures(kind: string): { passed: number; failed: Set<string> } {
  const file = join(folder, `${kind}.json`);
  const tests = (named.length > 0 ? named : TESTS).map((name) => `tests/${name}.test.ts`);
  spawnSync("npx", ["vitest", "run", "--reporter=json", `--outputFile=${file}`, ...tests], {
    cwd: folder,
    env: { ...process.env, [kind]: "1", REDIS_HOST: "127.0.0.1", REDIS_PORT: String(server.port) },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const { numPassedTests, testResults } = JSON.parse(readFileSync(file, "utf8")) as Report;
  const all = testResults.flatMap(({ assertionResults }) => assertionResults);
  const failed = all.filter(({ status }) => status === "failed").map(({ fullName }) => fullName);
  return { passed: numPassedTests, failed: new Set(failed) };
}
