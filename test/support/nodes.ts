/**
 * `npm run test:nodes -- [MAJOR ...]`: the tests under each supported Node, all of 20, 22, 24 and 26 unless some are
 * named. One build serves all; the binaries are those that npm carries, kept in .cache.
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const MAJORS = ["20", "22", "24", "26"];
const root = fileURLToPath(new URL("../../../", import.meta.url));
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

function test(bin: string): { version: string; passed: number; failed: number; isGreen: boolean } {
  const node = join(bin, "node");
  const version = spawnSync(node, ["--version"], { encoding: "utf8" }).stdout.trim();
  const files = readdirSync(join(root, "dist", "test"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.js"))
    .map((file) => join(root, "dist", "test", file));
  const { stdout, status } = spawnSync(
    node,
    ["--test", "--test-reporter=tap", "--test-concurrency=2", "--test-timeout=300000", ...files],
    {
      cwd: root,
      encoding: "utf8",
      maxBuffer: 2 ** 28,
      // What a test starts by its name, `node` or `npm`, is of this version too.
      env: { ...process.env, PATH: `${bin}:${process.env["PATH"]}` },
      stdio: ["ignore", "pipe", "inherit"],
    },
  );
  const count = (name: string): number => Number(new RegExp(`^# ${name} (\\d+)$`, "m").exec(stdout)?.[1] ?? NaN);
  const isGreen = status === 0;
  if (!isGreen) console.log(failures(stdout));
  return { version, passed: count("pass"), failed: count("fail"), isGreen };
}

/** Of TAP: each test that failed, with what follows it. */
function failures(tap: string): string {
  const lines = tap.split("\n");
  return lines.flatMap((line, i) => (/^\s*not ok /.test(line) ? lines.slice(i, i + 30) : [])).join("\n");
}
