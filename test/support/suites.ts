import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../../", import.meta.url));

export interface SuiteResult {
  readonly passed: number;
  readonly failed: number;
  readonly isGreen: boolean;
}

export function testFiles(): string[] {
  return readdirSync(join(root, "dist", "test"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.js"))
    .map((file) => join(root, "dist", "test", file));
}

/** Runs every test file under this Node with this environment, and prints the tests that fail. */
export function runSuites(node: string, env: NodeJS.ProcessEnv): SuiteResult {
  const { stdout, status } = spawnSync(
    node,
    ["--test", "--test-reporter=tap", "--test-concurrency=2", "--test-timeout=300000", ...testFiles()],
    { cwd: root, encoding: "utf8", maxBuffer: 2 ** 28, env, stdio: ["ignore", "pipe", "inherit"] },
  );
  const count = (name: string): number => Number(new RegExp(`^# ${name} (\\d+)$`, "m").exec(stdout)?.[1] ?? NaN);
  const isGreen = status === 0;
  if (!isGreen) console.log(failures(stdout));
  return { passed: count("pass"), failed: count("fail"), isGreen };
}

/** Each failed test of a TAP output, with its details. */
function failures(tap: string): string {
  const lines = tap.split("\n");
  return lines.flatMap((line, i) => (/^\s*not ok /.test(line) ? lines.slice(i, i + 30) : [])).join("\n");
}
