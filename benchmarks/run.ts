/** One benchmark, several, or all of them; each in a process of its own. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseBenchOptions, USAGE } from "./support/options.js";

const ALL = [
  "dispatch",
  "map",
  "outage",
  "cluster",
  "acquire",
  "latency",
  "startup",
  "shutdown",
  "memory",
  "deploy",
  "vectors",
  "limit",
  "overhead",
  "sync",
  "pipeline",
];
const { names } = parseBenchOptions();
const unknown = names.filter((name) => !ALL.includes(name));
if (unknown.length > 0) {
  console.error(`no benchmark ${unknown.join(", ")}; there is ${ALL.join(", ")}\n${USAGE}`);
  process.exit(2);
}
for (const name of names.length > 0 ? names : ALL) {
  const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  const { status } = spawnSync(process.execPath, [...process.execArgv, script, ...process.argv.slice(2)], {
    stdio: "inherit",
  });
  if (status !== 0) process.exit(status ?? 1);
}
