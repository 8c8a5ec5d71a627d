/** Runs the named benchmarks, or all of them, each in a process of its own. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { BENCHMARKS, parseBenchOptions, USAGE } from "./support/options.js";

const ALL = Object.keys(BENCHMARKS);
const names = namesOrExit();
const unknown = names.filter((name) => !ALL.includes(name));
if (unknown.length > 0) exit(`no benchmark ${unknown.join(", ")}; there is ${ALL.join(", ")}\n${USAGE}`);
for (const name of names.length > 0 ? names : ALL) {
  const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  const { status } = spawnSync(process.execPath, [...process.execArgv, script, ...process.argv.slice(2)], {
    stdio: "inherit",
  });
  if (status !== 0) process.exit(status ?? 1);
}

/** For a mistyped option the user gets a sentence, not a stack. */
function namesOrExit(): readonly string[] {
  try {
    return parseBenchOptions().names;
  } catch (error) {
    return exit(error instanceof Error ? error.message : String(error));
  }
}

function exit(message: string): never {
  console.error(message);
  process.exit(2);
}
