/**
 * `npm run test:chaos -- [--minutes N] [--seed S] [--topology sentinel|cluster] [--fault NAME] [--beside]`: writes with
 * a key each, reads, leases, pipelines and counted messages, while the servers of a Cluster or under sentinels die,
 * freeze, fail over, move slots and change their ACL. The exit code is 1 if a write ran twice, a caller got a wrong
 * outcome, a subscription missed a message without a gap, a call hung, or a connection is left. `--beside` instead
 * measures the longest time without an answer around each fault, beside plain ioredis under the same fault.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { eventually } from "../support/gate.js";
import { nothingIsOpen } from "../support/leak-check.js";
import { beside } from "./beside.js";
import { clusterFaults } from "./cluster-faults.js";
import { ClusterField } from "./cluster-field.js";
import { seeded } from "../support/seeded.js";
import { type Fault, type Field, oneOf, pause } from "./field.js";
import { sentinelFaults } from "./sentinel-faults.js";
import { strangers } from "../support/sentinel.js";
import { SentinelField } from "./sentinel-field.js";
import { Workload } from "./workload.js";
import type { LossyTime } from "./writes.js";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "1" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 31)) },
    topology: { type: "string", default: "cluster" },
    fault: { type: "string", multiple: true, default: [] },
    beside: { type: "boolean", default: false },
    runs: { type: "string", default: "5" },
  },
});
/** Of each kind of failure. */
const MOST_SHOWN = 8;
const LOGS = join(".cache", "chaos");
const minutes = Number(values.minutes);
const seed = Number(values.seed);
const isCluster = values.topology === "cluster";
if (!(minutes > 0) || !Number.isInteger(seed) || (!isCluster && values.topology !== "sentinel")) usage();

/** Faults and calls have separate generators: the schedule does not depend on how fast calls are. */
const random = seeded(seed);
const [field, all] = await prepare();
const named = all.filter(({ name }) => values.fault.length === 0 || values.fault.includes(name));
if (named.length === 0) usage(`no such fault: there are ${all.map(({ name }) => name).join(", ")}`);
const unheard = new Set<string>();
process.on("unhandledRejection", (reason) => unheard.add(`rejected unheard: ${String(reason)}`));
process.on("warning", (warning) => unheard.add(String(warning)));

if (values.beside) {
  for (const line of await beside({ field, faults: named, random, runs: Number(values.runs) })) console.log(line);
  await field.stop();
} else {
  const failures = await endure(field);
  for (const failure of failures) console.error(`FAILED: ${failure}`);
  process.exitCode = failures.length > 0 ? 1 : 0;
}

async function prepare(): Promise<[Field, Fault[]]> {
  if (isCluster) {
    const cluster = await ClusterField.start();
    return [cluster, clusterFaults(cluster)];
  }
  const watched = await SentinelField.start();
  return [watched, sentinelFaults(watched)];
}

async function endure(on: Field): Promise<string[]> {
  const load = new Workload(on, isCluster, seeded(seed + 1));
  await load.start();
  const happened = new Map<string, number>();
  const lossy: LossyTime[] = [];
  let masters = await mastersOf(on);
  let checkedAt = performance.now();
  const until = performance.now() + minutes * 60_000;
  while (performance.now() < until) {
    await pause(200 + random() * 800);
    const fault = oneOf(named, random);
    const from = performance.now();
    console.log(`${Math.round(from)} ms: ${fault.name}`);
    await fault.provoke(oneOf(await on.shards(), random), random);
    await on.settled();
    const mastersNow = await mastersOf(on);
    const hasMoved = mastersNow !== masters && !fault.isGraceful;
    if (fault.mayLose || hasMoved) lossy.push({ from: hasMoved ? checkedAt : from - 1_000, to: performance.now() });
    [masters, checkedAt] = [mastersNow, performance.now()];
    happened.set(fault.name, (happened.get(fault.name) ?? 0) + 1);
  }
  const lost = await load.stop();
  await load.manager.shutdown();
  const { twice, wrong, lost: lostByReplication } = load.writes.judge(await counted(on, load.writes.keys), lossy);
  const left = await connectionsLeft(on);
  await nothingIsOpen(0).catch((error: Error) => left.push(error.message));
  const { totals, kinds, unexplained } = load.writes;
  const rows = [
    ["seed", seed],
    ["topology, minutes", `${values.topology}, ${minutes}`],
    ["told", JSON.stringify(totals)],
    ["failed, by kind", JSON.stringify(Object.fromEntries(kinds))],
    ["reads", JSON.stringify(load.reads)],
    ["slowest call, ms", Math.round(load.slowestMs)],
    ["faults", JSON.stringify(Object.fromEntries([...happened].toSorted(([a], [b]) => a.localeCompare(b))))],
    ...load.listeners.map((one) => [`subscription ${one.channel}`, one.summary()]),
    ["lost by replication", lostByReplication],
  ];
  for (const [name, value] of rows) console.log(`${String(name).padEnd(24)} ${value}`);
  const verdicts = { twice, "told wrongly": wrong, "lost without a gap": lost, hung: load.hung, left };
  console.log(
    Object.entries(verdicts)
      .map(([name, list]) => `${list.length} ${name}`)
      .join(", "),
  );
  const failures = Object.entries(verdicts).flatMap(([name, list]) =>
    list.slice(0, MOST_SHOWN).map((one) => `${name}: ${one}`),
  );
  if (failures.length > 0) await keepLogs(on);
  await on.stop();
  return [...failures, ...[...unexplained].map((one) => `unexplained: ${one}`), ...unheard];
}

async function mastersOf(on: Field): Promise<string> {
  const ports = (await on.shards()).map(({ master }) => master.port);
  return ports.toSorted((a, b) => a - b).join();
}

async function counted(on: Field, keys: readonly string[]): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (let from = 0; from < keys.length; from += 500) {
    const some = keys.slice(from, from + 500);
    for (const [i, count] of (await on.counts(some)).entries()) counts.set(some[i]!, count);
  }
  return counts;
}

/** The servers' own view, for a search for the cause. */
async function keepLogs({ nodes, sentinels }: Field): Promise<void> {
  await mkdir(LOGS, { recursive: true });
  const servers = [
    ...nodes.map((node) => [node, "node"] as const),
    ...sentinels.map((one) => [one, "sentinel"] as const),
  ];
  for (const [server, kind] of servers) await writeFile(join(LOGS, `${seed}-${kind}-${server.port}.log`), server.log());
  console.log(`the servers' logs are in ${LOGS}; time 0 was ${new Date(performance.timeOrigin).toISOString()}`);
}

/** All connections of this process to the nodes pass the proxies. A sentinel's connections to other sentinels have names. */
async function connectionsLeft(on: Field): Promise<string[]> {
  const list = async (): Promise<string[]> => {
    const lists = await Promise.all([...on.nodes, ...on.sentinels].map((server) => server.clients()));
    const ours = lists.flat().filter(({ name }) => name.startsWith("redthread"));
    const asked = (await Promise.all(on.sentinels.map(strangers))).flat();
    const ways = on.nodes
      .filter((node) => on.wayTo(node).connections > 0)
      .map(({ port }) => `over the proxy of ${port}`);
    return [...[...ours, ...asked].map(({ name, cmd, addr }) => `${name} ${cmd} from ${addr}`), ...ways];
  };
  await eventually(async () => (await list()).length === 0, 10_000).catch(() => undefined);
  return await list();
}

function usage(problem = ""): never {
  console.error(problem);
  console.error(
    "usage: npm run test:chaos -- [--minutes N] [--seed S] [--topology sentinel|cluster] [--fault NAME] [--beside]",
  );
  process.exit(2);
}
