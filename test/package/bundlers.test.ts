import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { cp, copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { build } from "esbuild";
import { rolldown } from "rolldown";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));

/** Says what `run` gives, or why there is no manager, and why its bare thread has no synchronous client. */
const MAIN = `
import { isMainThread, Worker } from "node:worker_threads";
import { pathToFileURL } from "node:url";
import { ConnectionManager } from "redthread";
import { openSync } from "redthread/sync";

async function main() {
  const [, program, tasks, port] = process.argv;
  try {
    const options = { env: {}, redis: { port: Number(port) }, threads: { count: 1 }, log: { level: "warn" } };
    const manager = new ConnectionManager({ tasks, ...options });
    console.log(await manager.run("echo", "heard"));
    await manager.shutdown();
  } catch ({ code, message }) {
    console.log(code, message);
    new Worker(program);
  }
}

function thread() {
  try {
    openSync();
  } catch ({ code, message }) {
    console.log(code, message);
  }
}

if (isMainThread) void main();
else thread();
`;
const TASKS = `
import { getRedis } from "redthread/worker";
export const echo = async (word) => (await getRedis()).echo(word);
`;

let server: RedisServer;
let project: string;
let main: string;
let tasks: string;
before(async () => {
  server = await startRedis();
  project = await mkdtemp(join(tmpdir(), "redthread-bundlers-"));
  main = join(project, "main.js");
  tasks = join(project, "tasks.js");
  await mkdir(join(project, "node_modules"));
  await Promise.all([
    writeFile(join(project, "package.json"), JSON.stringify({ private: true, type: "module" })),
    writeFile(main, MAIN),
    writeFile(tasks, TASKS),
    symlink(root, join(project, "node_modules", "redthread"), "dir"),
  ]);
});
after(async () => {
  await server.stop();
  await rm(project, { recursive: true, force: true });
});

async function withEsbuild(input: string, output: string, options: object): Promise<string> {
  const file = join(project, "out", output);
  await build({ entryPoints: [input], outfile: file, bundle: true, platform: "node", logLevel: "error", ...options });
  return file;
}

async function withRolldown(input: string, output: string, external: RegExp[]): Promise<string> {
  const dir = join(project, "out");
  const bundle = await rolldown({ input, platform: "node", external });
  await bundle.write({ dir, entryFileNames: output, codeSplitting: false });
  return join(dir, output);
}

async function outputOf(program: string, tasksFile: string): Promise<string> {
  const args = [program, tasksFile, String(server.port)];
  // They run what is published, whose maps are too coarse to count lines by. Left out, node would put it back in.
  const env = { PATH: process.env["PATH"], NODE_V8_COVERAGE: "" };
  const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { env, timeout: 60_000 });
  assert.equal(stderr, "");
  return stdout;
}

test("an application bundled by esbuild or rolldown works with redthread external, its tasks bundled as well", async () => {
  const esm = { format: "esm", packages: "external" };
  const programs = [
    [await withEsbuild(main, "external.js", esm), await withEsbuild(tasks, "external-tasks.js", esm)],
    [
      await withRolldown(main, "external-rolldown.js", [/^redthread/]),
      await withRolldown(tasks, "external-rolldown-tasks.js", [/^redthread/]),
    ],
  ] as const;
  for (const [program, tasksFile] of programs) assert.equal(await outputOf(program, tasksFile), "heard\n");
});

test("tasks into which redthread/worker was bundled have the clients that the manager gave their thread", async () => {
  const program = await withEsbuild(main, "external-main.js", { format: "esm", packages: "external" });
  const bundled = await withRolldown(tasks, "bundled-tasks.js", []);
  assert.equal(await outputOf(program, bundled), "heard\n");
});

test("redthread bundled into the application is THREAD_START_FAILED at once, which says what to do", async () => {
  const requireToo = "import{createRequire as from}from'node:module';const require=from(import.meta.url);";
  const programs = [
    await withEsbuild(main, "bundled.js", { format: "esm", banner: { js: requireToo } }),
    await withEsbuild(main, "bundled.cjs", { format: "cjs", logLevel: "silent" }), // it warns of import.meta
    await withRolldown(main, "bundled-rolldown.js", []),
  ];
  for (const program of programs) {
    const lines = (await outputOf(program, tasks)).trim().split("\n");
    assert.equal(lines.length, 2, lines.join("\n"));
    for (const line of lines) assert.match(line, /^REDTHREAD_THREAD_START_FAILED .*bundled.*external/, program);
  }
});

test("no file is named as bundlers look for it: Turbopack copied those of the threads, without what they import", async () => {
  const lib = join(root, "lib");
  const files = (await readdir(lib, { recursive: true })).filter((name) => name.endsWith("js"));
  for (const name of files) {
    const code = await readFile(join(lib, name), "utf8");
    const harmless =
      /new URL\("\.\/tasks\.js", import\.meta\.url\)|(?:String|createRequire|\w+)\(import\.meta\.url(?: \?\?|\))/g;
    assert.doesNotMatch(code.replaceAll(harmless, ""), /import\.meta\.url/, name); // one message shows how to name tasks
  }
});

test("where generic-pool is missing, the first lease rejects at once and says why", async (t) => {
  const pruned = await mkdtemp(join(tmpdir(), "redthread-pruned-"));
  t.after(() => rm(pruned, { recursive: true, force: true }));
  const modules = join(pruned, "node_modules");
  await cp(join(root, "lib"), join(modules, "redthread", "lib"), { recursive: true });
  await copyFile(join(root, "package.json"), join(modules, "redthread", "package.json"));
  for (const name of ["dotenv", "ioredis"]) await symlink(join(root, "node_modules", name), join(modules, name), "dir");
  const code = 'import { withDedicated } from "redthread/worker"; await withDedicated(() => {}).catch(console.log);';
  await writeFile(join(pruned, "main.mjs"), code);
  const { stdout } = await promisify(execFile)(process.execPath, ["main.mjs"], { cwd: pruned });
  assert.match(stdout, /generic-pool, which redthread needs, cannot be loaded/);
  assert.match(stdout, /REDTHREAD_THREAD_START_FAILED/);
});

test("a bundle that has redthread in it and none beside it says so when it is loaded", async (t) => {
  const bundled = await withEsbuild(main, "alone.js", { format: "esm" });
  const elsewhere = await mkdtemp(join(tmpdir(), "redthread-alone-"));
  t.after(() => rm(elsewhere, { recursive: true, force: true }));
  const alone = join(elsewhere, "alone.mjs");
  await copyFile(bundled, alone);
  await assert.rejects(
    promisify(execFile)(process.execPath, [alone]),
    /\w+, which redthread needs, cannot be loaded.*bundled.*external/,
  );
});
