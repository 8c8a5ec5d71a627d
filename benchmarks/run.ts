/** `npm run bench -- [NAME] [--smoke]`: one benchmark, or all of them. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const ALL = ["dispatch", "sync"];
const args = process.argv.slice(2);
const named = args.filter((arg) => !arg.startsWith("--"));
const unknown = named.filter((name) => !ALL.includes(name));
if (unknown.length > 0) {
  console.error(`no benchmark ${unknown.join(", ")}; there is ${ALL.join(", ")}`);
  process.exit(2);
}
for (const name of named.length > 0 ? named : ALL) {
  const script = fileURLToPath(new URL(`./${name}.js`, import.meta.url));
  const { status } = spawnSync(process.execPath, [script, ...args.filter((arg) => arg.startsWith("--"))], {
    stdio: "inherit",
  });
  if (status !== 0) process.exit(status ?? 1);
}
