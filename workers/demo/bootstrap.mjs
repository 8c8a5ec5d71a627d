// What `npm run demo` runs: on a clone that was neither installed nor built it does both, then starts the demo. Plain
// JavaScript without dependencies, because there may be none yet. Its own words go to stderr: stdout is the demo's.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const program = join(root, "dist", "workers", "demo", "main.js");
const sources = ["src", "workers", "tsconfig.json"].map((name) => join(root, name));

// npm writes this file last: without it an installation was never finished.
if (!existsSync(join(root, "node_modules", ".package-lock.json"))) npm("installing the dependencies", "ci");
if (!existsSync(program) || newest(sources) > statSync(program).mtimeMs) npm("building", "run", "build");
await import(new URL("../../dist/workers/demo/main.js", import.meta.url).href);

/** @param {string[]} args */
function npm(/** @type {string} */ what, ...args) {
  process.stderr.write(`demo: ${what} …\n`);
  const known = process.env["npm_execpath"];
  const [command, first] = known?.endsWith(".js") ? [process.execPath, [known]] : ["npm", []];
  const stdio = ["ignore", 2, 2];
  const { status, error } = spawnSync(command, [...first, ...args], { cwd: root, stdio, shell: command === "npm" });
  if (status === 0) return;
  process.stderr.write(`demo: npm ${args.join(" ")} failed${error ? `: ${error.message}` : ""}\n`);
  process.exit(1);
}

/** @param {string[]} paths */
function newest(paths) {
  let latest = 0;
  for (const path of paths) {
    const { mtimeMs } = statSync(path);
    const inside = statSync(path).isDirectory() ? newest(readdirSync(path).map((name) => join(path, name))) : 0;
    latest = Math.max(latest, statSync(path).isDirectory() ? inside : mtimeMs);
  }
  return latest;
}
