import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test, type TestContext } from "node:test";
import { permissionFlags } from "../../src/core/packages.js";
import { connRetry, type ManagerOptions } from "../../src/index.js";
import { leakCheck } from "../support/leak-check.js";
import { Program } from "../support/program.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// Under Node's permission model, with the flags that docs/operations.md names.

const MAJOR = Number(process.versions.node.split(".")[0]);
const ON = MAJOR < 22 ? "--experimental-permission" : "--permission";
const READ = ["--allow-fs-read", "/"]; // covers a value that is an argument of its own
const WORKER = "--allow-worker";
/** Older versions of Node let every process connect. */
const HAS_NET = MAJOR >= 25;
const NET = HAS_NET ? ["--allow-net"] : [];

let server: RedisServer;
let folder: string;
let preload: string;
before(async () => {
  server = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "redthread-permissions-"));
  preload = join(folder, "preload.cjs");
  // Each thread that loads it tells whether it could write a file.
  await writeFile(
    preload,
    `const { threadId } = require("node:worker_threads");
     const { writeFileSync, writeSync } = require("node:fs");
     let may = "write";
     try { writeFileSync(__filename + threadId, "") } catch ({ code }) { may = code }
     writeSync(1, JSON.stringify({ threadId, may }) + "\\n");`,
  );
});
after(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

interface Start {
  threads?: ManagerOptions["threads"];
  execArgv?: string[];
  nodeOptions?: string[];
}

async function run(t: TestContext, { threads, execArgv = [], nodeOptions = [] }: Start): Promise<Program> {
  const env = { ...process.env, NODE_OPTIONS: nodeOptions.join(" ") };
  const options = { redis: { port: server.port }, threads: { count: 1, ...threads } };
  const program = new Program(t, "refused", options, { env, execArgv });
  leakCheck(t, server);
  assert.equal((await program.exit).code, 0, program.transcript);
  return program;
}

/** What the main thread, a thread and its helper may do. */
function noneMayWrite(program: Program): void {
  const rights = program.all("may");
  assert.deepEqual(
    rights.map(({ may }) => may),
    ["ERR_ACCESS_DENIED", "ERR_ACCESS_DENIED", "ERR_ACCESS_DENIED"],
    program.transcript,
  );
  assert.equal(new Set(rights.map(({ threadId }) => threadId)).size, 3);
  assert.deepEqual(program.all("run"), [{ run: "thread" }]);
}

for (const [what, threads] of [
  ["as they are", {}],
  ["with an execArgv of their own", { execArgv: ["--no-deprecation"] }],
] as const) {
  test(`threads ${what}, and their helpers, may do no more than the process`, async (t) => {
    const execArgv = [ON, ...READ, WORKER, ...NET];
    noneMayWrite(await run(t, { execArgv, nodeOptions: ["--require", preload], threads }));
  });
}

test("threads with variables of their own, and their helpers, may do no more than NODE_OPTIONS lets the process", async (t) => {
  const nodeOptions = [ON, "--allow-fs-read=/", WORKER, ...NET, "--require", preload];
  noneMayWrite(await run(t, { nodeOptions, threads: { env: { MINE: "1" } } }));
});

test("an error names the flag that a process needs for its threads", async (t) => {
  const program = await run(t, { execArgv: [ON, ...READ, ...NET] });
  const [ready] = program.all("ready");
  assert.deepEqual([ready!["ready"], ready!["cause"]], ["REDTHREAD_THREAD_START_FAILED", "ERR_ACCESS_DENIED"]);
  assert.match(String(ready!["message"]), /--allow-worker/);
  assert.deepEqual(program.all("getRedis"), [{ getRedis: "PONG" }]);
});

test("a process without permission to connect gets its error at once", { skip: !HAS_NET }, async (t) => {
  const program = await run(t, { execArgv: [ON, ...READ, WORKER] });
  const [failed] = program.all("getRedis");
  assert.deepEqual([failed!["getRedis"], failed!["cause"]], ["REDTHREAD_CONNECT_FAILED", "ERR_ACCESS_DENIED"]);
  assert.ok((await program.exit).ms < 20_000, "it was tried again and again");
});

test("a denied attempt is not repeated, also when its error is the cause of another error", async () => {
  let calls = 0;
  const denied = Object.assign(new Error("denied"), { code: "ERR_ACCESS_DENIED" });
  const fail = async (): Promise<never> => {
    calls++;
    throw new Error("no connection", { cause: denied });
  };
  await assert.rejects(connRetry("redis", "connecting", { attempts: 3, baseDelayMs: 1 })(fail)(), { cause: denied });
  assert.equal(calls, 1);
});

test("a thread gets only the process's flags of the permission model", () => {
  const argv = [
    "--import",
    "tsx",
    ON,
    "--allow-fs-read",
    "/app",
    "--allow-fs-write=/tmp",
    "--allow-natives-syntax",
    WORKER,
  ];
  assert.deepEqual(permissionFlags(argv), [ON, "--allow-fs-read", "/app", "--allow-fs-write=/tmp", WORKER]);
});
