import assert from "node:assert/strict";
import { after, before, beforeEach, test, type TestContext } from "node:test";
import type { ShutdownReport } from "../../src/index.js";
import type { ManagersArgument } from "../fixtures/managers.js";
import { counted } from "../support/ending.js";
import { leakCheck } from "../support/leak-check.js";
import { Program } from "../support/program.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";

// What a process with `handleSignals` does at a signal. What each shutdown does is tested in shutdown.test.ts.

let server: RedisServer;
before(async () => {
  server = await startRedis();
});
beforeEach(() => server.admin.flushall());
after(() => server.stop());

type Managers = Omit<ManagersArgument, "options"> & { shutdown?: object };

/** Killed after the test and before the check, so that a process that hangs is visible by its exit. */
function start(t: TestContext, { shutdown, ...rest }: Managers): Program {
  const options = {
    redis: { port: server.port },
    threads: { count: 1 },
    shutdown: { handleSignals: true, drainMs: 300, closeMs: 600, ...shutdown },
  };
  const program = new Program(t, "managers", { ...rest, options });
  leakCheck(t, server);
  return program;
}

async function ready(t: TestContext, service: Managers): Promise<Program> {
  const program = start(t, service);
  await program.hears("ready", 30_000);
  return program;
}

const reportOf = (program: Program, manager: number): ShutdownReport =>
  program.all("shutdown").find(({ shutdown }) => shutdown === manager)!["value"] as ShutdownReport;

/** Far more than any shutdown here may take, and less than the time for which the threads would hold the process. */
const AT_ONCE_MS = 15_000;
/** Where no thread may be forced, a loaded machine needs time to close it. */
const UNHURRIED = { closeMs: 10_000 };
const HELD_SECONDS = 60;

for (const [name, input] of [
  ["sleepOn", HELD_SECONDS],
  ["deriveKey", 100_000_000],
] as const) {
  test(`a thread in a call that nothing can interrupt (${name}) does not hold the process, which ends by the signal`, async (t) => {
    const service = await ready(t, { managers: [{ run: [[name, input]] }] });
    await counted(server, 1);
    service.signal("SIGTERM");
    const { code, signal, ms } = await service.exit;
    assert.deepEqual([code, signal], [null, "SIGTERM"], service.transcript);
    assert.ok(ms < AT_ONCE_MS, `${ms} ms`);
    assert.deepEqual(service.all("task"), [{ task: name, error: "REDTHREAD_TASK_ABORTED" }]);
    assert.equal(reportOf(service, 0).threads[0]!.outcome, "forced");
  });
}

for (const task of ["spin", "sleepOn"] as const) {
  test(`a second signal ends the process at once, whatever its threads do (${task})`, async (t) => {
    const shutdown = { drainMs: 60_000 };
    const service = await ready(t, { managers: [{ run: [[task, HELD_SECONDS]] }], shutdown });
    await counted(server, 1);
    service.signal("SIGTERM");
    await service.hears("signalled");
    service.signal("SIGINT");
    const { code, signal, ms } = await service.exit;
    assert.deepEqual([code, signal], [null, "SIGINT"]);
    assert.ok(ms < AT_ONCE_MS, `${ms} ms`);
    assert.deepEqual(service.all("shutdown"), []);
  });
}

test("two managers drain together, and the process ends when both are done", async (t) => {
  const service = await ready(t, {
    managers: [{}, { run: [["work", "go"]] }],
    shutdown: { ...UNHURRIED, drainMs: 60_000 },
  });
  await counted(server, 1);
  service.signal("SIGTERM");
  await service.hears("shutdown");
  assert.equal(reportOf(service, 0).tasks.abandoned, 0, "the first manager is done");
  await server.admin.set("go", 1);
  assert.equal((await service.exit).code, 0, service.transcript);
  assert.deepEqual(reportOf(service, 1).tasks, { finished: 1, abandoned: 0 });
});

test("the worse outcome of two managers decides the exit code", async (t) => {
  const service = await ready(t, {
    managers: [{ run: [["work", "never"]] }, { run: [["work", "go"]] }],
    shutdown: { closeMs: 5_000 },
  });
  await counted(server, 2);
  await server.admin.set("go", 1);
  await service.hears("task");
  service.signal("SIGTERM");
  assert.equal((await service.exit).code, 1, service.transcript);
  assert.deepEqual(
    [0, 1].map((manager) => reportOf(service, manager).tasks.abandoned),
    [1, 0],
  );
});

test("a manager that is constructed after the signal is shut down with the others", async (t) => {
  const service = await ready(t, { managers: [{}], late: true, shutdown: UNHURRIED });
  service.signal("SIGTERM");
  assert.equal((await service.exit).code, 0, service.transcript);
  assert.deepEqual(service.all("late"), [{ late: true, error: "REDTHREAD_SHUTTING_DOWN" }]);
});

test("the shutdown waits within closeMs for a stalled reader of the log, which gets every line", async (t) => {
  const lines = 10_000;
  const service = start(t, { managers: [{ first: [["talk", lines]] }], shutdown: { closeMs: 20_000 } });
  service.stall();
  await service.hears("ready", 30_000);
  service.signal("SIGTERM");
  await new Promise((resolve) => setTimeout(resolve, 600)); // the fault itself
  service.readOn();
  const { code, stderr } = await service.exit;
  const said = stderr.split("\n").filter((line) => line.includes('"message":"said"'));
  assert.deepEqual([said.length, code], [lines, 0]);
});

/** Every pair of these values is in at least one row. */
const ENDS = [
  ["idle", 1, "reads", 1],
  ["idle", 2, "stalls", 2],
  ["spin", 1, "stalls", 1],
  ["spin", 2, "reads", 2],
  ["sleepOn", 1, "reads", 2],
  ["sleepOn", 2, "stalls", 1],
  ["idle", 2, "stalls", 1],
] as const;

for (const [task, count, reader, signals] of ENDS) {
  const what = `${count} manager(s), a thread: ${task}, the log's reader ${reader}, ${signals} signal(s)`;
  test(`the process ends in its time: ${what}`, async (t) => {
    const first = [["talk", 2_000]] as const;
    const run = task === "idle" ? [] : [[task, HELD_SECONDS] as const];
    const managers = Array.from({ length: count }, (_, i) => (i === 0 ? { first, run } : { first }));
    const isClean = task === "idle" && reader === "reads";
    const shutdown = { drainMs: signals === 1 ? 300 : 60_000, ...(isClean && UNHURRIED) };
    const service = start(t, { managers, shutdown });
    if (reader === "stalls") service.stall();
    await service.hears("ready", 30_000);
    await counted(server, run.length);
    service.signal("SIGTERM");
    if (signals === 2) {
      await service.hears("signalled");
      service.signal("SIGTERM");
    }
    const { code, signal, ms } = await service.exit;
    assert.ok(ms < AT_ONCE_MS, `${ms} ms`);
    if (signals === 2 && task === "idle") return; // it may have ended before the second signal
    const isKilled = signals === 2 || task === "sleepOn";
    assert.deepEqual([code, signal], isKilled ? [null, "SIGTERM"] : [isClean ? 0 : 1, null]);
  });
}
