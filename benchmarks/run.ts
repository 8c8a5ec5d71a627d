/** Runs the named benchmarks, or all of them, each in a process of its own. */
import { spawn, type StdioOptions } from "node:child_process";
import { once } from "node:events";
import { buffer } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { BENCHMARKS, type BenchOptions, parseBenchOptions, USAGE } from "./support/options.js";

const ALL = Object.keys(BENCHMARKS);
const { names, isSmoke } = optionsOrExit();
const unknown = names.filter((name) => !ALL.includes(name));
if (unknown.length > 0) exit(`no benchmark ${unknown.join(", ")}; there is ${ALL.join(", ")}\n${USAGE}`);
const left = names.length > 0 ? [...names] : ALL;
// Beside another benchmark figures would mean nothing, as those of a smoke run do. Three, because one of a Cluster mostly waits.
await Promise.all(Array.from({ length: isSmoke ? 3 : 1 }, runLeft));

async function runLeft(): Promise<void> {
  for (let name = left.shift(); name !== undefined; name = left.shift()) {
    const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
    const stdio: StdioOptions = ["inherit", isSmoke ? "pipe" : "inherit", "inherit"];
    const child = spawn(process.execPath, [...process.execArgv, script, ...process.argv.slice(2)], { stdio });
    const printed = child.stdout && buffer(child.stdout);
    const [code] = (await once(child, "exit")) as [number | null];
    if (printed) process.stdout.write(await printed);
    if (code === 0) continue;
    process.exitCode = code ?? 1;
    left.length = 0; // those beside this one end by themselves
  }
}

/** For a mistyped option the user gets a sentence, not a stack. */
function optionsOrExit(): BenchOptions {
  try {
    return parseBenchOptions();
  } catch (error) {
    return exit(error instanceof Error ? error.message : String(error));
  }
}

function exit(message: string): never {
  console.error(message);
  process.exit(2);
}
