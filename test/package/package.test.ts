import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { access, copyFile, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { transform } from "esbuild";
import { startRedis, type RedisServer } from "../support/redis-server.js";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../../../", import.meta.url));
const tsc = join(root, "node_modules", "typescript", "bin", "tsc");

let server: RedisServer;
let folder: string;

before(async () => {
  server = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "redthread-package-"));
  await pack(["--pack-destination", folder]);
  await write("package.json", JSON.stringify({ private: true, type: "module" }));
  const { version, devDependencies } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as {
    version: string;
    devDependencies: Record<string, string>;
  };
  const nodeTypes = `@types/node@${devDependencies["@types/node"]}`;
  const quiet = ["--prefer-offline", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...quiet, `./redthread-${version}.tgz`, nodeTypes], { cwd: folder });
  const compilerOptions = {
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    module: "nodenext",
    target: "es2022",
    lib: ["es2023", "esnext.disposable"],
    types: ["node"],
    outDir: "out",
  };
  await write("tsconfig.json", JSON.stringify({ compilerOptions, include: ["*.ts"] }));
  const programs = [...(await programsOf("README.md")), ...(await programsOf("docs/operations.md"))];
  for (const [name, text] of programs) await write(name, text);
  // What README's reader has of their own.
  await write("sign-token.ts", `export const signToken = async (): Promise<string> => process.env["TOKEN"]!;\n`);
});
after(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

const write = (name: string, text: string): Promise<void> => writeFile(join(folder, name), text);

/** What npm says of the tarball of a folder. */
async function pack(args: string[], cwd = root): Promise<{ size: number; files: { path: string }[] }> {
  // npm test has built what is in it.
  const { stdout } = await run("npm", ["pack", "--json", "--ignore-scripts", ...args], { cwd });
  return (JSON.parse(stdout) as [{ size: number; files: { path: string }[] }])[0];
}

/** The programs of a page, by the file name in their first line. */
async function programsOf(page: string): Promise<[name: string, text: string][]> {
  const text = await readFile(join(root, page), "utf8");
  return [...text.matchAll(/^```ts\n(\/\/ (\S+\.ts)\n[^]*?)^```$/gm)].map(([, code, name]) => [name!, code!]);
}

async function runProgram(
  name: string,
  env: NodeJS.ProcessEnv,
  built = "out",
): Promise<{ stdout: string; stderr: string }> {
  const file = join(folder, built, name);
  return run(process.execPath, [file], { env: { PATH: process.env["PATH"], ...env }, timeout: 30_000 });
}

test("every program of README compiles under strict from the packed tarball, and runs as printed", async () => {
  const readme = await readFile(join(root, "README.md"), "utf8");
  const { length } = await programsOf("README.md");
  assert.equal(length, readme.split("\n```ts\n").length - 1, "every block has its file name");
  await run(process.execPath, [tsc, "-p", folder]);
  await printsAsReadme("out");
  const env = { REDIS_URL: server.url, LOG_LEVEL: "warn" };
  await server.admin.acl("SETUSER", "app", "on", ">a token", "~*", "&*", "+@all");
  const { stdout, stderr } = await runProgram("rotating.js", { ...env, TOKEN: "a token" });
  assert.match(stdout, /^\d+\n$/);
  assert.equal(stderr, "");
  await server.waitForClients((clients) => clients.length === 0);
});

/** Runs README's programs from this folder. */
async function printsAsReadme(built: string): Promise<void> {
  await server.admin.flushall();
  const programs: Record<string, RegExp> = {
    "main.js": /^\[ \d+, \d+, \d+ \]\n$/,
    "service.js": /^996 true \{ live: true, ready: true, reasons: \[\] \}\n$/,
  };
  for (const [name, output] of Object.entries(programs)) {
    const { stdout, stderr } = await runProgram(name, { REDIS_URL: server.url, LOG_LEVEL: "warn" }, built);
    assert.match(stdout, output, name);
    assert.equal(stderr, "", name);
  }
  assert.match((await server.admin.get("score:1"))!, /^\d+$/);
}

/** What is left for an author of JavaScript to write. */
async function withoutTypes(text: string): Promise<string> {
  return (await transform(text, { loader: "ts", target: "esnext" })).code;
}

test("README's programs run as printed in JavaScript, on this Node", async () => {
  await mkdir(join(folder, "written"));
  for (const [name, text] of await programsOf("README.md")) {
    await write(join("written", name.replace(/ts$/, "js")), await withoutTypes(text));
  }
  await printsAsReadme("written");
  await server.waitForClients((clients) => clients.length === 0);
});

test("every example of README and docs is JavaScript that this Node knows, types apart", async () => {
  const docs = (await readdir(join(root, "docs"))).filter((name) => name.endsWith(".md"));
  let examples = 0;
  for (const page of ["README.md", ...docs.map((name) => join("docs", name))]) {
    const text = await readFile(join(root, page), "utf8");
    for (const [, example] of text.matchAll(/^```[jt]s\n([^]*?)^```$/gm)) {
      const name = `example-${examples++}.mjs`;
      await write(name, await withoutTypes(example!));
      await run(process.execPath, ["--check", join(folder, name)]);
    }
  }
  assert.ok(examples > 20, String(examples));
});

test("redthread/sync works from the packed tarball, in a thread of its own, and types what it gives", async () => {
  await write(
    "sync-trial.ts",
    `import { isMainThread, Worker } from "node:worker_threads";
import { openSync } from "redthread/sync";
if (isMainThread) new Worker(new URL(import.meta.url));
else {
  using redis = openSync({ timeoutMs: 5_000 });
  redis.set("packed", 1);
  const value: string | null = redis.get("packed");
  console.log(value, redis.pipeline([["incr", "packed"]]));
}
`,
  );
  await run(process.execPath, [tsc, "-p", folder]);
  const { stdout, stderr } = await runProgram("sync-trial.js", { REDIS_URL: server.url });
  assert.equal(stdout, "1 [ [ null, 2 ] ]\n");
  assert.equal(stderr, "");
  await server.waitForClients((clients) => clients.length === 0);
});

test("without the optional peers redthread works, and an adapter's import names the one it misses", async () => {
  await write(
    "peers-trial.ts",
    `import "redthread";
import "redthread/worker";
for (const adapter of ["redthread/otel", "redthread/prometheus"]) {
  await import(adapter).then(
    () => console.log("loaded"),
    ({ code, message }: { code: string; message: string }) => console.log(code, message.match(/'([^']+)'/)?.[1]),
  );
}
`,
  );
  await run(process.execPath, [tsc, "-p", folder]);
  const { stdout } = await runProgram("peers-trial.js", {});
  assert.equal(stdout, "ERR_MODULE_NOT_FOUND @opentelemetry/api\nERR_MODULE_NOT_FOUND prom-client\n");
});

test("npm installs redthread beside whatever version of an optional peer a service has", async () => {
  const older = { "@opentelemetry/api": "1.0.4", bullmq: "4.18.3", fastify: "3.29.5", "prom-client": "13.2.0" };
  const service = join(folder, "service");
  await mkdir(service);
  await write(join("service", "package.json"), JSON.stringify({ private: true }));
  for (const [name, version] of Object.entries(older)) {
    await mkdir(join(service, "peers", name), { recursive: true });
    await write(join("service", "peers", name, "package.json"), JSON.stringify({ name, version }));
  }
  const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { version: string };
  const peers = Object.keys(older).map((name) => `./peers/${name}`);
  const quiet = ["--package-lock-only", "--prefer-offline", "--no-audit", "--no-fund"];
  await run("npm", ["install", ...quiet, ...peers, `../redthread-${version}.tgz`], { cwd: service }); // or ERESOLVE
});

test("the package says where it is at home, and each link of its README leads there from a package page", async () => {
  const page = join(folder, "page");
  await mkdir(page);
  for (const name of ["package.json", "README.md"]) await copyFile(join(root, name), join(page, name));
  const home = JSON.parse(await readFile(join(page, "package.json"), "utf8")) as Record<string, unknown>;
  const { homepage, bugs, repository, workspaces } = home;
  assert.match((repository as { url: string }).url, /^git\+https:/);
  assert.match(String(bugs), /^https:/);
  assert.equal(workspaces, undefined);

  const readme = (): Promise<string> => readFile(join(page, "README.md"), "utf8");
  const inTheRepository = await readme();
  const script = join(root, ".ci", "tarball.mjs"); // as npm pack and npm publish run it
  await run(process.execPath, [script], { cwd: page });
  const links = [...(await readme()).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link!);
  assert.ok(links.length > 10);
  for (const link of links) {
    assert.ok(link.startsWith(`${homepage as string}/`), link);
    await access(join(root, new URL(link).pathname.slice(new URL(homepage as string).pathname.length)));
  }
  await run(process.execPath, [script, "restore"], { cwd: page });
  assert.equal(await readme(), inTheRepository);
  assert.equal(await readFile(join(page, "package.json"), "utf8"), await readFile(join(root, "package.json"), "utf8"));
});

test("the doctor runs from the packed tarball as npx runs it, and the dashboard has its types", async () => {
  await write(
    "tools-trial.ts",
    `import { createServer } from "node:http";
import { ConnectionManager } from "redthread";
import { dashboard } from "redthread/dashboard";
declare const manager: ConnectionManager<typeof import("./tasks.js")>;
export const servers = [() => createServer(manager.dashboard()), () => createServer(dashboard(manager, { title: "t" }))];
console.log(typeof dashboard);
`,
  );
  await run(process.execPath, [tsc, "-p", folder]);
  const env = { PATH: process.env["PATH"], REDIS_URL: server.url };
  const options = { env, cwd: folder, timeout: 30_000 };
  assert.equal((await runProgram("tools-trial.js", {})).stdout, "function\n");
  const { stdout } = await run(join(folder, "node_modules", ".bin", "redthread"), ["doctor", "--json"], options);
  assert.equal((JSON.parse(stdout) as { ok: boolean }).ok, true, stdout);
});

test("with --enable-source-maps a stack names the line of the source, on the main thread and in a thread", async () => {
  await write(
    "stack-tasks.ts",
    `import { getRedis } from "redthread/worker";
export const subscribe = async (): Promise<unknown> => (await getRedis()).subscribe("news");
`,
  );
  await write(
    "stack-trial.ts",
    `import { ConnectionManager } from "redthread";
const stackOf = (error: unknown): string => (error as Error).stack!;
const stacks: string[] = [];
try {
  new ConnectionManager({ tasks: "./relative.js" });
} catch (error) {
  stacks.push(stackOf(error));
}
const tasks = new URL("./stack-tasks.js", import.meta.url);
await using manager = new ConnectionManager<typeof import("./stack-tasks.js")>({ tasks, threads: { count: 1 } });
await manager.run("subscribe").catch((error: unknown) => stacks.push(stackOf(error)));
console.log(JSON.stringify(stacks));
`,
  );
  await run(process.execPath, [tsc, "-p", folder]);
  const env = { REDIS_URL: server.url, LOG_LEVEL: "warn", NODE_OPTIONS: "--enable-source-maps" };
  const stacks = JSON.parse((await runProgram("stack-trial.js", env)).stdout) as string[];
  for (const [stack, thrown] of [
    [stacks[0]!, "ConfigInvalidError"],
    [stacks[1]!, "NeedsDedicatedError"],
  ] as const) {
    const [, file, line] = /\/redthread\/(src\/[\w/-]+\.ts):(\d+)/.exec(stack) ?? [];
    assert.ok(file, stack);
    const source = (await readFile(join(root, file), "utf8")).split("\n");
    assert.match(source[Number(line) - 1]!, new RegExp(`new ${thrown}\\(`), stack);
  }
  await server.waitForClients((clients) => clients.length === 0);
});

test("a thread whose files cannot be loaded is THREAD_START_FAILED, which says why", async () => {
  const serve = join("node_modules", "redthread", "lib", "src", "thread", "serve.js");
  const whole = await readFile(join(folder, serve), "utf8");
  await write(
    "broken-trial.ts",
    `import { ConnectionManager } from "redthread";
const tasks = new URL("./stack-tasks.js", import.meta.url);
await using manager = new ConnectionManager<typeof import("./stack-tasks.js")>({ tasks, threads: { count: 1 } });
await manager.run("subscribe").catch(({ code, message, cause }) => console.log(code, message, String(cause)));
`,
  );
  await run(process.execPath, [tsc, "-p", folder]);
  await write(serve, `throw new Error("a damaged file");\n`);
  try {
    const { stdout } = await runProgram("broken-trial.js", { REDIS_URL: server.url, LOG_LEVEL: "warn" });
    assert.match(stdout, /^REDTHREAD_THREAD_START_FAILED .*a damaged file/);
  } finally {
    await write(serve, whole);
  }
});

test("the types of run reject a wrong name, a wrong input and a missing one", async () => {
  await write(
    "wrong.ts",
    `import { ConnectionManager } from "redthread";
declare const manager: ConnectionManager<typeof import("./tasks.js")>;
export const right: Promise<number> = manager.run("score", { id: 1 }, { timeoutMs: 1 });
export const wrongs = [
  manager.run("scores", { id: 1 }),
  manager.run("score", { id: "1" }),
  manager.run("score"),
];
export const wrongResult: Promise<string> = manager.run("score", { id: 1 });
`,
  );
  const { stdout } = await run(process.execPath, [tsc, "--pretty", "false"], { cwd: folder }).then(
    () => assert.fail("it compiled"),
    (error: { stdout: string }) => error,
  );
  const lines = [...stdout.matchAll(/^wrong\.ts\((\d+),/gm)].map(([, line]) => Number(line));
  assert.deepEqual(lines, [5, 6, 7, 9], stdout);
});

test("the package is less than 190 kB, and holds no tests, no demo and nothing that runs at install", async () => {
  const unpacked = join(folder, "unpacked");
  await mkdir(unpacked);
  for (const name of ["package.json", "README.md", "LICENSE", "lib"])
    await cp(join(root, name), join(unpacked, name), { recursive: true });
  await run(process.execPath, [join(root, ".ci", "tarball.mjs")], { cwd: unpacked });
  const { size, files } = await pack(["--dry-run"], unpacked);
  assert.ok(size < 190_000, `${size} bytes`);
  const OURS = /^(lib\/(src\/|workers\/(entry\.cjs|(?:sync|keeper)-entry\.js))|README\.md$|LICENSE$|package\.json$)/;
  assert.deepEqual(
    files.filter(({ path }) => !OURS.test(path)),
    [],
  );
  const published = JSON.parse(await readFile(join(unpacked, "package.json"), "utf8")) as Record<string, object>;
  assert.equal(published["scripts"], undefined);
  assert.equal(published["devDependencies"], undefined);
});

test("a CommonJS program requires it, and its faces share one copy of each class", async () => {
  const program = `
    const main = require("redthread");
    const worker = require("redthread/worker");
    const { openSync, ...sync } = require("redthread/sync");
    console.log(typeof main.ConnectionManager, typeof openSync, main.RedthreadError === worker.RedthreadError,
      sync.RedthreadError === worker.RedthreadError, new main.NotSentError("x").name);
  `;
  await write("required.cjs", program);
  const file = join(folder, "required.cjs");
  const { stdout } = await run(process.execPath, ["--experimental-require-module", "--no-warnings", file]);
  assert.equal(stdout, "function function true true NotSentError\n");
});

test("the declarations keep their docstrings, and are those that the public ones refer to", async () => {
  const lib = join(folder, "node_modules", "redthread", "lib");
  const files = (await readdir(lib, { recursive: true })).filter((name) => name.endsWith(".d.ts"));
  const declared = (await Promise.all(files.map((name) => readFile(join(lib, name), "utf8")))).join("");
  assert.match(declared, /\* Runs `fn` with a client of its own/);
  assert.match(declared, /\* @throws REDTHREAD_CONFIG_INVALID/);
  assert.doesNotMatch(declared, /class (Dispatcher|Threads|ConnectGate|Client)\b/);
});

test("all that is installed with redthread has a permissive licence", async () => {
  const { packages } = JSON.parse(await readFile(join(root, "package-lock.json"), "utf8")) as {
    packages: Record<string, { license?: string; dev?: boolean; link?: boolean }>;
  };
  const installed = Object.entries(packages).filter(([name, { dev, link }]) => name !== "" && !dev && !link);
  const PERMISSIVE = new Set(["MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0"]);
  assert.deepEqual(
    installed.filter(([, { license }]) => !PERMISSIVE.has(license ?? "none")),
    [],
  );
});
