/**
 * `npm run test:nodes -- [MAJOR ...]`: the tests with each supported Node: 20, 22, 24 and 26, or the named ones. One
 * build serves all; the binaries come from npm and are kept in .cache.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { root, runSuites, type SuiteResult } from "./suites.js";

const MAJORS = ["20", "22", "24", "26"];
const platform = `node-${process.platform}-${process.arch}`;

const named = process.argv.slice(2);
const unknown = named.filter((major) => !MAJORS.includes(major));
if (unknown.length > 0)
  throw new Error(`unknown or not supported: ${unknown.join(", ")}; there are ${MAJORS.join(", ")}`);
const results = (named.length > 0 ? named : MAJORS).map((major) => ({ major, ...test(install(major)) }));
for (const { major, version, passed, failed } of results) {
  console.log(`Node ${version ?? major}: ${passed} passed, ${failed} failed`);
}
process.exit(results.every(({ isGreen }) => isGreen) ? 0 : 1);

function install(major: string): string {
  const prefix = join(root, ".cache", `node-${major}`);
  const quiet = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  const { status } = spawnSync("npm", ["install", "--prefix", prefix, ...quiet, `${platform}@${major}`], {
    stdio: "inherit",
  });
  if (status !== 0) throw new Error(`npm did not give ${platform}@${major}`);
  return join(prefix, "node_modules", platform, "bin");
}

function test(bin: string): SuiteResult & { version: string } {
  const node = join(bin, "node");
  const version = spawnSync(node, ["--version"], { encoding: "utf8" }).stdout.trim();
  // The programs `node` and `npm` that a test starts are of this version, too.
  return { version, ...runSuites(node, { ...process.env, PATH: `${bin}:${process.env["PATH"]}` }) };
}
