import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const MODEL = fileURLToPath(new URL("../support/lock-model.js", import.meta.url));
const SEEDS = ["28", "29"];
const RUNS = "5000";
/** Coverage would make it a fifth slower, and other tests run all of this code. */
const env = { ...process.env, NODE_V8_COVERAGE: "" };

test("no two holders are sure of a lock at the same time, whatever fails, and fences only rise", async () => {
  await Promise.all(SEEDS.map((seed) => promisify(execFile)(process.execPath, [MODEL, seed, RUNS], { env })));
});
