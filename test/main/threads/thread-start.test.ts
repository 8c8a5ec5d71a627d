import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { availableCores } from "../../../src/config/capacity.js";
import { ConnectionManager, type ThreadStartFailedError } from "../../../src/index.js";
import { eventually } from "../../support/gate.js";
import { code, fixture, manage } from "../../support/manage.js";
import { leakCheck } from "../../support/leak-check.js";
import { Program } from "../../support/program.js";
import { startRedis, type RedisServer } from "../../support/redis-server.js";

let server: RedisServer;
let folder: string;
before(async () => {
  server = await startRedis();
  folder = await mkdtemp(join(tmpdir(), "redthread-start-"));
});
after(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

async function tasksFile(name: string, source: string): Promise<string> {
  const file = join(folder, name);
  await writeFile(file, source);
  return file;
}

test("a setup that does not end rejects ready() and every run with THREAD_START_FAILED by startTimeoutMs", async (t) => {
  const tasks = await tasksFile(
    "silent.mjs",
    `export const setup = () => new Promise(() => {}); export const echo = (x) => x;`,
  );
  const manager = manage<{ echo(input: number): number }>(t, server, {
    tasks,
    threads: { count: 1, startTimeoutMs: 500 },
  });
  for (const result of await Promise.allSettled([manager.ready(), manager.run("echo", 1)])) {
    assert.equal(result.status, "rejected");
    assert.ok(code("THREAD_START_FAILED")(result.reason), String(result.reason));
    assert.match(String(result.reason), /within 500 ms/);
  }
  await assert.rejects(manager.run("echo", 2), code("THREAD_START_FAILED"));
});

test("a tasks module that ends its thread while it loads is THREAD_START_FAILED, without a loop of restarts", async (t) => {
  const tasks = await tasksFile("exits.mjs", `process.exit(3);`);
  const manager = manage<{ echo(input: number): number }>(t, server, { tasks });
  for (const result of await Promise.allSettled([manager.ready(), manager.run("echo", 1)])) {
    assert.equal(result.status, "rejected");
    assert.ok(code("THREAD_START_FAILED")(result.reason), String(result.reason));
    assert.equal((result.reason as ThreadStartFailedError).exitCode, 3);
  }
});

test("a thread that Node does not start is THREAD_START_FAILED with the reason, and the shutdown resolves", async (t) => {
  const threads = { count: 2, execArgv: ["--no-such-flag"] };
  // In a process of its own, because the ports that piscina opens for such a thread stay open.
  const program = new Program(t, "refused", { redis: { port: server.port }, threads });
  leakCheck(t, server);
  assert.equal((await program.exit).code, 0, program.transcript);
  for (const step of ["ready", "run"]) {
    const [said] = program.all(step);
    assert.equal(said![step], "REDTHREAD_THREAD_START_FAILED");
    assert.equal(said!["cause"], "ERR_WORKER_INVALID_EXEC_ARGV");
    assert.match(String(said!["message"]), /could not start: .*--no-such-flag/);
  }
  assert.deepEqual(program.all("shutdown"), [{ shutdown: { finished: 0, abandoned: 0 } }]);
});

test("a thread that ends before it has loaded our files is THREAD_START_FAILED at once", async (t) => {
  const preload = await tasksFile("ends.cjs", `if (!require("node:worker_threads").isMainThread) process.exit(7);`);
  const threads = { count: 1, execArgv: ["--require", preload], startTimeoutMs: 120_000 };
  const manager = manage(t, server, { tasks: fixture("tasks"), threads });
  await eventually(() => assert.rejects(manager.ready(), /exited with code 7/), 60_000, "ready() rejects");
});

test("a thread that failed is not started anew while the others are starting, nor when they fail, too", async (t) => {
  const manager = manage<{ never(): void }>(t, server, { tasks: fixture("setup-rejects-in-turn") });
  const refused = assert.rejects(manager.run("never"), code("THREAD_START_FAILED"));
  await assert.rejects(manager.ready(), code("THREAD_START_FAILED"));
  // Many times the delay after which it would be started again.
  await new Promise((resolve) => setTimeout(resolve, 500));
  await server.admin.set("fail", 1);
  await refused;
  assert.equal(await server.admin.get("setups"), "2");
});

test("all threads get their turn to load, and a thread without one at the close is no failure", async (t) => {
  const count = 2 * availableCores() + 2;
  const options = { tasks: fixture("tasks"), threads: { count } };
  const manager = manage(t, server, options);
  await manager.ready();
  await eventually(() => manager.stats().threads.every(({ state }) => state === "ready"));
  assert.equal(manager.stats().threads.length, count);
  const { threads } = await manage(t, server, options).shutdown({ closeMs: 20_000 });
  assert.deepEqual(
    threads.map(({ outcome }) => outcome),
    Array.from({ length: count }, () => "graceful"),
  );
});

test("a tasks module in CommonJS gives its exports as tasks", async (t) => {
  const tasks = await tasksFile("plain.cjs", `module.exports = { double: (x) => 2 * x, setup() {}, notATask: 1 };`);
  const manager = manage<{ double(input: number): number; notATask(): void }>(t, server, { tasks });
  assert.equal(await manager.run("double", 21), 42);
  await assert.rejects(manager.run("notATask"), (error: Error & { tasks?: string[] }) => {
    assert.ok(code("TASK_NOT_FOUND")(error));
    assert.deepEqual(error.tasks, ["double"]);
    return true;
  });
});

test("all exports of a CommonJS module are tasks, also where Node finds only some names, and its setup is called", async (t) => {
  const source = `
    let isReady = false;
    const half = (x) => x / 2;
    module.exports = { half, double: (x) => 2 * x, wasSetUp: () => isReady, setup() { isReady = true; } };`;
  const tasks = await tasksFile("half-found.cjs", source);
  type Tasks = { half(input: number): number; double(input: number): number; wasSetUp(): boolean };
  const manager = manage<Tasks>(t, server, { tasks });
  assert.deepEqual(
    [await manager.run("half", 4), await manager.run("double", 4), await manager.run("wasSetUp")],
    [2, 8, true],
  );
});

test("the log lines of a task survive all kinds of fields, and show no error's message", async (t) => {
  const source = `
    const circle = { name: "circle" };
    circle.self = circle;
    export const log = (_, { logger }) => {
      logger.info("fields", { circle, big: 1n, error: Object.assign(new Error("secret"), { code: "E_X" }) });
      logger.debug("below the level");
    };`;
  const tasks = await tasksFile("logs.mjs", source);
  const lines: [string, Record<string, unknown>][] = [];
  const info = (message: string, fields: object = {}): void => void lines.push([message, { ...fields }]);
  const manager = manage<{ log(): void }>(t, server, { tasks, logger: { debug: info, info, warn: info, error: info } });
  await manager.run("log");
  await manager.shutdown();
  const [fields] = lines.filter(([message]) => message === "fields").map(([, found]) => found);
  assert.match(JSON.stringify(fields!["circle"]), /"name":"circle","self":.*"…"/); // as on the main thread
  assert.equal(fields!["big"], 1n);
  assert.deepEqual(fields!["error"], { name: "Error", code: "E_X" });
  assert.equal(
    lines.some(([message]) => message === "below the level"),
    false,
  );
});

test("the constructor throws on Deno, with the reason", async () => {
  const { versions } = process;
  Object.defineProperty(process, "versions", { value: { ...versions, deno: "2.9.6" }, configurable: true });
  try {
    assert.throws(
      () => new ConnectionManager({ tasks: fixture("tasks"), env: {} }),
      (error: Error) => code("THREAD_START_FAILED")(error) && error.message.includes("not Deno"),
    );
  } finally {
    Object.defineProperty(process, "versions", { value: versions, configurable: true });
  }
});
