import type { RedisHandle } from "../commands/ioredis.js";
import { capacityOf } from "../config/capacity.js";
import type { Config } from "../config/options.js";
import { isReplyError, replyCode } from "../core/replies.js";
import { fail, type Finding, ms, ok, skip, warn } from "./report.js";

const PINGS = 100;
const PINGS_MS = 2_000;
/** A longer round trip means another zone or region, or a busy server. */
const SLOW_MS = 10;
/** Share of maxmemory: above it, a server that evicts nothing will soon refuse writes. */
const FULL = 0.9;

/** The commands that the library sends by itself, and what is lost if the ACL user may not send them. */
const OWN_COMMANDS: readonly (readonly [command: readonly string[], without: string])[] = [
  [["PING"], "tolerated: its refusal counts as an answer"],
  [["CLIENT", "SETNAME"], "tolerated: connections have no name in CLIENT LIST"],
  [["INFO", "clients"], "tolerated: no warning when maxclients is too small"],
  [["UNWATCH"], "a dedicated client that was left with a WATCH is closed instead of repaired"],
  [["SELECT"], "a dedicated client that was left on another database is closed instead of repaired"],
  // The last one, because RESP2 allows hardly any command after it.
  [["SUBSCRIBE"], "subscriptions are refused, save to channels that the user was given (&channel)"],
];

/** An answer, or the code of an error reply. Other errors (a lost connection, silence) are thrown. */
type Asked<T> = { readonly answer: T } | { readonly refused: string };

async function ask<T>(asking: Promise<T>): Promise<Asked<T>> {
  try {
    return { answer: await asking };
  } catch (error) {
    if (isReplyError(error)) return { refused: replyCode(error) };
    throw error;
  }
}

/** A PING that the server refuses is a round trip, too. */
export async function measureLatency(redis: RedisHandle): Promise<Finding> {
  const times: number[] = [];
  const until = performance.now() + PINGS_MS;
  for (let i = 0; i < PINGS && performance.now() < until; i++) {
    const sentAt = performance.now();
    await ask(redis.ping());
    times.push(performance.now() - sentAt);
  }
  times.sort((a, b) => a - b);
  const quantile = (share: number): number => times[Math.min(Math.floor(times.length * share), times.length - 1)]!;
  const p50 = quantile(0.5);
  const found = `p50 ${ms(p50)}, p99 ${ms(quantile(0.99))} of ${times.length} PINGs`;
  if (p50 <= SLOW_MS) return ok("latency", found);
  return warn("latency", found, "is the server in another zone or region, or busy (SLOWLOG, LATENCY DOCTOR)?");
}

/** The kind of server, its clients and its memory, as INFO describes them. */
export async function judgeInfo(redis: RedisHandle, config: Config): Promise<Finding[]> {
  const asked = await ask(redis.info());
  if ("answer" in asked) {
    const info = asked.answer;
    return [await judgeServer(redis, info, config), judgeClients(info, config), judgeMemory(info)];
  }
  const found = `not permitted to look: INFO is refused (${asked.refused})`;
  return (["server", "maxclients", "memory"] as const).map((check) => skip(check, found));
}

async function judgeServer(client: RedisHandle, info: string, { redis }: Config): Promise<Finding> {
  const valkey = field(info, "valkey_version");
  const kind =
    valkey === undefined ? `Redis ${field(info, "redis_version") ?? "of an unknown version"}` : `Valkey ${valkey}`;
  // Valkey calls it server_mode.
  const mode = field(info, "redis_mode") ?? field(info, "server_mode") ?? "standalone";
  const role = field(info, "role") ?? "master";
  const found = `${kind}, ${mode}, ${role}`;
  if (mode === "sentinel") {
    return fail("server", found, "this is a Sentinel, which holds no data: name the server itself");
  }
  if (mode === "cluster" && !redis.clusterNodes) {
    const asked = await ask(client.cluster("INFO"));
    const state = "answer" in asked ? String(asked.answer) : "";
    const [word = "?", size = "?"] = [field(state, "cluster_state"), field(state, "cluster_size")];
    // A master with all slots answers for every key, until the Cluster gets a second master.
    const judge = word === "fail" || Number(size) > 1 || role === "slave" ? fail : warn;
    const advice =
      "keys of other nodes are answered with MOVED: use redis.clusterNodes (REDTHREAD_REDIS_CLUSTER_NODES)";
    return judge("server", `${found}, cluster_state ${word}, cluster_size ${size}`, advice);
  }
  if (role !== "slave") return ok("server", found);
  return warn("server", found, "a replica refuses writes (READONLY): name the master, unless you only read");
}

function judgeClients(info: string, config: Config): Finding {
  const { maxclients, others, needed, isEnough } = capacityOf(info, config);
  const found = `${maxclients} allowed, ${others} taken by others, this process may open ${needed}`;
  if (isEnough) return ok("maxclients", found);
  const advice =
    "raise maxclients on the server, or lower threads.count or dedicated.max, or set connections.max; " +
    "count every process that lives at once";
  return fail("maxclients", found, advice);
}

function judgeMemory(info: string): Finding {
  const [used, max] = [Number(field(info, "used_memory") ?? 0), Number(field(info, "maxmemory") ?? 0)];
  if (max === 0) return ok("memory", `${mib(used)} used, maxmemory is not set`);
  const policy = field(info, "maxmemory_policy") ?? "noeviction";
  const found = `${mib(used)} of ${mib(max)} used, maxmemory-policy ${policy}`;
  if (policy !== "noeviction") {
    const advice = `${policy} drops keys when memory is full: right for a cache, wrong for locks, queues and counters`;
    return warn("memory", found, advice);
  }
  if (used < FULL * max) return ok("memory", found);
  return warn("memory", found, "when it is full, writes are refused (OOM): give it more, or expire keys");
}

/** How long the server lets a connection be silent, compared with the heartbeat. */
export async function judgeIdle(redis: RedisHandle, { redis: { heartbeatMs } }: Config): Promise<Finding> {
  const check = "idle connections";
  const settings: Record<string, number> = {};
  for (const name of ["timeout", "tcp-keepalive"]) {
    const asked = await ask(redis.config("GET", name));
    if ("refused" in asked) return skip(check, `not permitted to look: CONFIG GET is refused (${asked.refused})`);
    // With RESP3 and its mapping the answer is a map, else a list.
    const pair: unknown = asked.answer;
    settings[name] = Number(Array.isArray(pair) ? pair[1] : Object.values(pair ?? {})[0]);
  }
  const { timeout = 0, "tcp-keepalive": keepalive = 0 } = settings;
  const found = `timeout ${timeout} s, tcp-keepalive ${keepalive} s, redis.heartbeatMs ${heartbeatMs}`;
  if (timeout > 0 && timeout * 1_000 <= 2 * heartbeatMs) {
    const advice =
      "the server may cut connections between two heartbeats: timeout 0, or redis.heartbeatMs below half of it";
    return warn(check, found, advice);
  }
  if (keepalive > 0) return ok(check, found);
  const advice = "clients whose host died stay in maxclients until the server writes to them: set tcp-keepalive (300)";
  return warn(check, found, advice);
}

/** Sends the commands that the library sends, and reports which are refused and what is lost without them. */
export async function tryPermissions(redis: RedisHandle, name: string, db: number): Promise<Finding> {
  const last: Readonly<Record<string, string>> = { SETNAME: name, SELECT: String(db), SUBSCRIBE: name };
  const missing: string[] = [];
  for (const [words, without] of OWN_COMMANDS) {
    const argument = last[words.at(-1)!];
    const [command, ...args] = argument === undefined ? words : [...words, argument];
    const asked = await ask(redis.call(command!, ...args));
    if ("refused" in asked) missing.push(`${words.join(" ")} (${asked.refused}): ${without}`);
  }
  if (missing.length === 0) {
    return ok("permissions", `may send ${OWN_COMMANDS.map(([words]) => words.join(" ")).join(", ")}`);
  }
  const advice = "allow these to the ACL user, unless you can do without";
  return warn("permissions", `refused: ${missing.join("; ")}`, advice);
}

function field(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:(.*?)\\r?$`, "m").exec(info)?.[1];
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
