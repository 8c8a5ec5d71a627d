/**
 * `npm run test:faults -- [--repeat N] [--load [CORES]]`: runs the named test files N times, several at once, and ends
 * at the first failure. With `--load` busy loops run beside them, on all cores unless a number is given. Prints a line
 * per round.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";

/** Most tests wait most of the time. */
const CONCURRENCY = 4;
/** Of a file: a file that does not end has failed, too. */
const LIMIT_MS = 300_000;
const BUSY =
  "process.on('disconnect', () => process.exit()); setInterval(() => { for (const end = Date.now() + 100; Date.now() < end;); }, 0)";

interface Wanted {
  repeat: number;
  load: number;
  readonly files: string[];
}

const { repeat, load, files } = parse(process.argv.slice(2));
const busy = Array.from({ length: load }, () =>
  spawn(process.execPath, ["-e", BUSY], { stdio: ["ignore", "ignore", "inherit", "ipc"] }),
);
// Also after an interrupt or a failure. If this process is killed, the loops end with their channel.
process.on("exit", () => busy.forEach((child) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));

for (let round = 1; round <= repeat; round++) {
  const { output, isGreen } = await runOnce();
  const [passed, failed, ms] = ["pass", "fail", "duration_ms"].map((name) => summary(output, name));
  console.log(`round ${round} of ${repeat}: ${passed} passed, ${failed} failed, ${Math.round(ms! / 1_000)} s`);
  if (isGreen) continue;
  console.error(output);
  process.exit(1);
}
process.exit(0);

async function runOnce(): Promise<{ output: string; isGreen: boolean }> {
  const args = [
    "--test",
    "--test-reporter=tap",
    `--test-concurrency=${CONCURRENCY}`,
    `--test-timeout=${LIMIT_MS}`,
    ...files,
  ];
  const runner: ChildProcess = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  runner.stdout!.setEncoding("utf8").on("data", (text: string) => (output += text));
  const end = (): boolean => runner.kill();
  process.on("exit", end);
  const [code] = (await once(runner, "close")) as [number | null];
  process.off("exit", end);
  return { output, isGreen: code === 0 };
}

function summary(output: string, name: string): number {
  return Number(new RegExp(`^# ${name} ([\\d.]+)$`, "m").exec(output)?.[1] ?? NaN);
}

/** Parsed by hand, because `--load` may stand alone. */
function parse(args: string[]): Wanted {
  const wanted: Wanted = { repeat: 1, load: 0, files: [] };
  for (let i = 0; i < args.length; i++) {
    const [arg, next = ""] = [args[i]!, args[i + 1]];
    const hasNumber = /^\d+$/.test(next);
    if (arg === "--repeat" && hasNumber) wanted.repeat = Number(args[++i]);
    else if (arg === "--load") wanted.load = hasNumber ? Number(args[++i]) : availableParallelism();
    else if (arg.startsWith("--")) throw new Error(`unknown or without its number: ${arg}`);
    else wanted.files.push(arg);
  }
  return wanted;
}
