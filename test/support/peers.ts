/**
 * `npm run test:peers`: the adapters and their tests with the oldest supported major of each optional peer, for the
 * compiler and for Node. The packages come from npm and are kept in .cache.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { root } from "./suites.js";

const PEERS = { bullmq: "5", fastify: "4", "prom-client": "14" };
const TESTS = [
  "adapters/bullmq",
  "adapters/bullmq-locks",
  "faults/jobs",
  "adapters/fastify",
  "adapters/prometheus",
  "main/rolling",
];

const USE = `
import createFastify from "fastify";
import { metrics, trace } from "@opentelemetry/api";
import { Registry } from "prom-client";
import { ConnectionManager } from "redthread";
import { createWorker, type JobWorker } from "redthread/bullmq";
import redthread from "redthread/fastify";
import { instrument } from "redthread/otel";
import { register } from "redthread/prometheus";
const manager = new ConnectionManager<{ echo(word: string): Promise<string> }>({ tasks: "/tasks.js" });
const app = createFastify({ return503OnClosing: false });
await app.register(redthread, { manager: { tasks: "/tasks.js" }, lameDuckMs: 5_000 });
app.get("/ready", async () => app.redthread.health());
export const jobs: JobWorker = await createWorker(manager, "jobs", { connection: {}, task: "echo", lockDuration: 1_000 });
jobs.worker.on("failed", (job) => console.log(job?.id));
register(manager, { registry: new Registry() });
instrument(manager, { meterProvider: metrics.getMeterProvider(), tracerProvider: trace.getTracerProvider() });
`;

const folder = join(root, ".cache", "peers");
const installed = join(folder, "installed");
const quiet = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
const wanted = Object.entries(PEERS).map(([name, range]) => `${name}@${range}`);
run("npm", ["install", "--prefix", installed, ...quiet, ...wanted]);

for (const part of ["dist", "lib", "docs", "package.json"]) {
  rmSync(join(folder, part), { recursive: true, force: true });
  cpSync(join(root, part), join(folder, part), { recursive: true, filter: (file) => !file.endsWith("node_modules") });
}
rmSync(join(folder, "node_modules"), { recursive: true, force: true });
for (const name of packages(join(root, "node_modules"))) {
  const place = join(folder, "node_modules", name);
  mkdirSync(dirname(place), { recursive: true });
  symlinkSync(join(name in PEERS ? installed : root, "node_modules", name), place, "dir");
}

writeFileSync(join(folder, "use.ts"), USE);
const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
const options = ["--ignoreConfig", "--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--types", "node"];
run(process.execPath, [tsc, ...options, "use.ts"]);
const files = TESTS.map((test) => join(folder, "dist", "test", `${test}.test.js`));
run(process.execPath, ["--test", "--test-concurrency=2", "--test-timeout=300000", ...files]);

function run(program: string, args: string[]): void {
  mkdirSync(folder, { recursive: true });
  const { status } = spawnSync(program, args, { cwd: folder, stdio: "inherit" });
  if (status !== 0) process.exit(1);
}

function packages(modules: string): string[] {
  return readdirSync(modules).flatMap((name) => {
    if (name.startsWith(".")) return [];
    return name.startsWith("@") ? readdirSync(join(modules, name)).map((part) => `${name}/${part}`) : [name];
  });
}
