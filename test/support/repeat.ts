/** `npm run test:faults -- [--repeat N]`: the named test files, N times in a row, ending at the first failure. */
import { spawnSync } from "node:child_process";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({ options: { repeat: { type: "string" } }, allowPositionals: true });
const repeat = Number(values.repeat ?? 1);
for (let round = 1; round <= repeat; round++) {
  const { status } = spawnSync(process.execPath, ["--test", ...positionals], { stdio: "inherit" });
  if (status !== 0) {
    console.error(`round ${round} of ${repeat} failed`);
    process.exit(status ?? 1);
  }
}
