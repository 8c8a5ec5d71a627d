import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { leakCheck } from "../../support/leak-check.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

/** Node's own type stripping rejects the enum: a process that runs this file has transformed it. */
const TASKS = `
import { getRedis, type TaskContext } from "redthread/worker";
import { keyOf } from "./keys.js";

enum Step { By = 2 }

export async function count(name: string, { threadId }: TaskContext): Promise<{ value: number; threadId: number }> {
  const redis = await getRedis();
  return { value: await redis.incrby(keyOf(name), Step.By), threadId };
}
`;

/** Imported as ./keys.js, as nodenext requires. */
const KEYS = `export const keyOf = (name: string): string => \`counter:\${name}\`;\n`;

const MAIN = `
import { ConnectionManager } from "redthread";

await using manager = new ConnectionManager<typeof import("./tasks.js")>({
  tasks: new URL("./tasks.ts", import.meta.url),
  env: {},
  redis: { port: Number(process.argv[2]) },
  threads: { count: 2 },
  log: { level: "warn" },
});
await manager.ready();
const results = await Promise.all([1, 2, 3, 4].map(() => manager.run("count", "visits")));
console.log(JSON.stringify(results));
`;

const root = fileURLToPath(new URL("../../../../", import.meta.url));
const LOADER = import.meta.resolve("tsx");

let server: RedisServer;
let project: string;

before(async () => {
  server = await startRedis();
  project = await mkdtemp(join(tmpdir(), "redthread-ts-"));
  await Promise.all([
    writeFile(join(project, "package.json"), JSON.stringify({ type: "module" })),
    writeFile(join(project, "tasks.ts"), TASKS),
    writeFile(join(project, "keys.ts"), KEYS),
    writeFile(join(project, "main.ts"), MAIN),
    install(join(project, "node_modules", "redthread")),
    // Where a user's project has the loader, whose package.json lies beside its folder.
    link(join(dirname(fileURLToPath(LOADER)), ".."), join(project, "node_modules", "tsx")),
  ]);
});
after(async () => {
  await server.stop();
  await rm(project, { recursive: true, force: true });
});

/** Installs like npm: the package's own package.json and the files that it publishes. */
async function install(folder: string): Promise<void> {
  await link(join(root, "lib"), join(folder, "lib"));
  await copyFile(join(root, "package.json"), join(folder, "package.json"));
}

async function link(folder: string, as: string): Promise<void> {
  await mkdir(dirname(as), { recursive: true });
  await symlink(folder, as, "dir");
}

// tsx rewrites the files that it loads, also ours: their lines would not fit the coverage of the others.
// Without the variable node would put it back.
const env = { ...process.env, NODE_V8_COVERAGE: "" };

for (const [how, args] of [
  ["node --import tsx", ["--import", "tsx"]],
  ["the tsx command", [`--import=${LOADER}`]], // the command starts node like this
] as const) {
  test(`tasks in TypeScript run in the threads of a process that was started with ${how}`, async (t) => {
    leakCheck(t, server);
    const child = spawn(process.execPath, [...args, "main.ts", String(server.port)], {
      cwd: project,
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    t.after(() => void child.kill("SIGKILL"));
    const output = { stdout: "", stderr: "" };
    child.stdout.on("data", (text: Buffer) => (output.stdout += text.toString()));
    child.stderr.on("data", (text: Buffer) => (output.stderr += text.toString()));
    const [exitCode] = (await once(child, "close")) as [number | null];
    assert.equal(exitCode, 0, output.stderr);
    assert.equal(output.stderr, "");
    const results = JSON.parse(output.stdout) as { value: number; threadId: number }[];
    assert.equal(Number(await server.admin.getdel("counter:visits")), 8);
    assert.deepEqual(new Set(results.map(({ value }) => value)), new Set([2, 4, 6, 8]));
    assert.equal(new Set(results.map(({ threadId }) => threadId)).size, 2);
  });
}
