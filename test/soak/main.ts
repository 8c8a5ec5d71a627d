/**
 * `npm run soak -- --minutes M [--seed S]`: load through worker threads and a random schedule of faults. Every write is
 * a counted INCR, and acknowledged <= counter <= acknowledged + uncertain must hold. Otherwise the exit code is 1; so
 * it is when a call hangs, no fault explains an error, memory grows (in 4 minutes or more), or a connection, a handle
 * or a timer is left.
 */
import { parseArgs } from "node:util";
import { ConnectionManager } from "../../src/index.js";
import type * as Tasks from "../fixtures/soak-tasks.js";
import { nothingIsOpen } from "../support/leak-check.js";
import { fixture } from "../support/manage.js";
import { seeded } from "../support/seeded.js";
import { silent } from "../support/silent.js";
import { startProxy } from "../support/proxy.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { faults } from "./faults.js";
import { Ledger } from "./ledger.js";
import { Memory } from "./memory.js";

const { values } = parseArgs({ options: { minutes: { type: "string" }, seed: { type: "string" } } });
const minutes = Number(values.minutes ?? 1);
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
if (!(minutes > 0) || !Number.isInteger(seed)) {
  console.error("usage: npm run soak -- --minutes M [--seed S]");
  process.exit(2);
}

const CALLERS = 48;
const KEYS = 64;
/** Longer than all deadlines of the library together: a longer call hangs. */
const HANG_MS = 60_000;
/** Of one kind of message; more would only grow with the run. */
const MOST_HEARD = 20;

const unheard: string[] = [];
const hear = (news: unknown): void => {
  if (unheard.length < MOST_HEARD) unheard.push(String(news));
};
process.on("unhandledRejection", hear);
process.on("warning", hear); // above all about leaking listeners
const random = seeded(seed);
const server = await startRedis({ args: ["--appendonly", "yes", "--appendfsync", "always"] });
const proxy = await startProxy(server.port);
const manager = new ConnectionManager<typeof Tasks>({
  tasks: fixture("soak-tasks"),
  env: {},
  logger: silent,
  redis: { port: proxy.port, commandTimeoutMs: 1_000, connectTimeoutMs: 1_000, heartbeatMs: 1_000 },
  threads: { count: 4, startTimeoutMs: 60_000 }, // the machine has other work, too
  dedicated: { max: 3, acquireTimeoutMs: 10_000 },
  connections: { max: 16 },
  retry: { deadlineMs: 10_000 },
});
await manager.ready();
const ledger = new Ledger();
const until = performance.now() + minutes * 60_000;
const isOver = (): boolean => performance.now() >= until;
const rssAtStart = process.memoryUsage.rss();
const memory = new Memory();
const happened = new Map<string, number>();

await Promise.all([breakThings(), ...Array.from({ length: CALLERS }, () => call())]);
memory.stop();
const failures = [...memory.problems(), ...(await verify())];
print();
for (const failure of failures) console.error(`FAILED: ${failure}`);
process.exitCode = failures.length > 0 ? 1 : 0;

async function call(): Promise<void> {
  while (!isOver()) {
    const key = `soak:${Math.floor(random() * KEYS)}`;
    const task = (["incr", "incr", "incr", "incrDedicated", "incrWatched"] as const)[Math.floor(random() * 5)]!;
    const calledAt = performance.now();
    try {
      const counted = await manager.run(task, key);
      if (counted !== false) ledger.acknowledged(key);
    } catch (error) {
      ledger.failed(key, error);
    }
    ledger.settled(performance.now() - calledAt);
    if (random() < 0.002) await manager.run("burn", 50 + random() * 200).catch(() => {}); // ended with its thread
  }
}

async function breakThings(): Promise<void> {
  const all = faults({ server, proxy, random, endThread: () => manager.run("exit").catch(() => {}) });
  while (!isOver()) {
    const fault = all[Math.floor(random() * all.length)]!;
    await fault.provoke();
    happened.set(fault.name, (happened.get(fault.name) ?? 0) + 1);
    await new Promise((resolve) => setTimeout(resolve, 100 + random() * 1_500));
  }
}

async function verify(): Promise<string[]> {
  const problems = [...ledger.unexplained(), ...unheard.map((reason) => `heard on the process: ${reason}`)];
  const counters = await Promise.all(ledger.keys().map(async (key) => [key, await count(server, key)] as const));
  for (const [key, counter] of counters) problems.push(...ledger.judge(key, counter));
  if (ledger.slowestMs > HANG_MS) problems.push(`a call took ${Math.round(ledger.slowestMs)} ms`);
  const report = await manager.shutdown();
  if (report.tasks.abandoned > 0) problems.push(`${report.tasks.abandoned} tasks were abandoned by the shutdown`);
  const left = await server.waitForClients((clients) => clients.length === 0).catch(() => server.clients());
  if (left.length > 0) problems.push(`${left.length} connections are left`);
  await nothingIsOpen(0).catch((error: Error) => problems.push(error.message));
  proxy.close();
  await server.stop();
  return problems;
}

async function count(from: RedisServer, key: string): Promise<number> {
  return Number((await from.admin.get(key)) ?? 0);
}

function print(): void {
  const rows = [
    ["seed", seed],
    ["minutes", minutes],
    ["acknowledged", ledger.totals.acknowledged],
    ["uncertain", ledger.totals.uncertain],
    ["not sent", ledger.totals.notSent],
    ["slowest call, ms", Math.round(ledger.slowestMs)],
    ["memory, MB", `${mb(rssAtStart)} -> ${mb(process.memoryUsage.rss())}`],
    ...[...happened].toSorted(([a], [b]) => a.localeCompare(b)),
  ];
  for (const [name, value] of rows) console.log(`${String(name).padEnd(28)} ${value}`);
  for (const line of memory.table()) console.log(line);
}

function mb(bytes: number): number {
  return Math.round(bytes / 1e6);
}
