import type { RedisHandle } from "../commands/ioredis.js";
import { capacityOf } from "../config/capacity.js";
import type { Config } from "../config/options.js";
import { isReplyError, replyCode } from "../core/replies.js";
import type { Finding } from "./finding.js";
import { ms } from "./way.js";

const PINGS = 100;
const PINGS_MS = 2_000;
/** More for one round trip is another zone or region, or a server that is busy. */
const SLOW_MS = 10;
/** Of maxmemory: with less left, a server that evicts nothing will soon refuse writes. */
const FULL = 0.9;

/** What the library sends by itself, and what a user who may not loses. */
const OWN_COMMANDS: readonly (readonly [command: readonly string[], without: string])[] = [
  [["PING"], "tolerated: its refusal counts as an answer"],
  [["CLIENT", "SETNAME"], "tolerated: connections have no name in CLIENT LIST"],
  [["INFO", "clients"], "tolerated: no warning when maxclients is too small"],
  [["UNWATCH"], "a dedicated client that was left with a WATCH is closed instead of repaired"],
  [["SELECT"], "a dedicated client that was left on another database is closed instead of repaired"],
  // The last, because RESP2 allows hardly anything after it.
  [["SUBSCRIBE"], "subscriptions are refused, save to channels that the user was given (&channel)"],
];

/** An answer, or the code of the server's refusal; anything else (a lost connection, silence) is thrown. */
type Asked<T> = { readonly answer: T } | { readonly refused: string };

async function ask<T>(asking: Promise<T>): Promise<Asked<T>> {
  try {
    return { answer: await asking };
  } catch (error) {
    if (isReplyError(error)) return { refused: replyCode(error) };
    throw error;
  }
}

/** A refused PING is a round trip as well. */
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
  const [p50, p99] = [quantile(0.5), quantile(0.99)];
  const found = `p50 ${ms(p50)}, p99 ${ms(p99)} of ${times.length} PINGs`;
  if (p50 <= SLOW_MS) return { check: "latency", status: "ok", found };
  const advice = "is the server in another zone or region, or busy (SLOWLOG, LATENCY DOCTOR)?";
  return { check: "latency", status: "warn", found, advice };
}

/** What INFO tells of the server, of its clients and of its memory. */
export async function judgeInfo(redis: RedisHandle, config: Config): Promise<Finding[]> {
  const asked = await ask(redis.info());
  if ("answer" in asked) {
    const info = asked.answer;
    return [await judgeServer(redis, info, config), judgeClients(info, config), judgeMemory(info)];
  }
  const found = `not permitted to look: INFO is refused (${asked.refused})`;
  return (["server", "maxclients", "memory"] as const).map((check) => ({ check, status: "skip", found }));
}

async function judgeServer(client: RedisHandle, info: string, { redis }: Config): Promise<Finding> {
  const check = "server";
  const valkey = field(info, "valkey_version");
  const kind =
    valkey === undefined ? `Redis ${field(info, "redis_version") ?? "of an unknown version"}` : `Valkey ${valkey}`;
  // The latter is Valkey's name for it.
  const mode = field(info, "redis_mode") ?? field(info, "server_mode") ?? "standalone";
  const role = field(info, "role") ?? "master";
  const found = `${kind}, ${mode}, ${role}`;
  if (mode === "sentinel") {
    return { check, status: "fail", found, advice: "this is a Sentinel, which holds no data: name the server itself" };
  }
  if (mode === "cluster" && !redis.clusterNodes) {
    const asked = await ask(client.cluster("INFO"));
    const state = "answer" in asked ? String(asked.answer) : "";
    const [word = "?", size = "?"] = [field(state, "cluster_state"), field(state, "cluster_size")];
    // One that has all slots answers for every key, until it is given a second one.
    const status = word === "fail" || Number(size) > 1 || role === "slave" ? "fail" : "warn";
    const advice =
      "keys of other nodes are answered with MOVED: use redis.clusterNodes (REDTHREAD_REDIS_CLUSTER_NODES)";
    return { check, status, found: `${found}, cluster_state ${word}, cluster_size ${size}`, advice };
  }
  if (role !== "slave") return { check, status: "ok", found };
  const advice = "a replica refuses writes (READONLY): name the master, unless you only read";
  return { check, status: "warn", found, advice };
}

function judgeClients(info: string, config: Config): Finding {
  const check = "maxclients";
  const { maxclients, others, needed, isEnough } = capacityOf(info, config);
  const found = `${maxclients} allowed, ${others} taken by others, this process may open ${needed}`;
  if (isEnough) return { check, status: "ok", found };
  const advice =
    "raise maxclients on the server, or lower threads.count or dedicated.max, or set connections.max; " +
    "count every process that lives at once";
  return { check, status: "fail", found, advice };
}

function judgeMemory(info: string): Finding {
  const check = "memory";
  const [used, max] = [Number(field(info, "used_memory") ?? 0), Number(field(info, "maxmemory") ?? 0)];
  if (max === 0) return { check, status: "ok", found: `${mib(used)} used, maxmemory is not set` };
  const policy = field(info, "maxmemory_policy") ?? "noeviction";
  const found = `${mib(used)} of ${mib(max)} used, maxmemory-policy ${policy}`;
  if (policy !== "noeviction") {
    const advice = `${policy} drops keys when memory is full: right for a cache, wrong for locks, queues and counters`;
    return { check, status: "warn", found, advice };
  }
  if (used < FULL * max) return { check, status: "ok", found };
  return {
    check,
    status: "warn",
    found,
    advice: "when it is full, writes are refused (OOM): give it more, or expire keys",
  };
}

/** The server's own ideas of how long a connection may be silent, against the heartbeat. */
export async function judgeIdle(redis: RedisHandle, { redis: { heartbeatMs } }: Config): Promise<Finding> {
  const check = "idle connections";
  const settings: Record<string, number> = {};
  for (const name of ["timeout", "tcp-keepalive"]) {
    const asked = await ask(redis.config("GET", name));
    if ("refused" in asked) {
      return { check, status: "skip", found: `not permitted to look: CONFIG GET is refused (${asked.refused})` };
    }
    settings[name] = Number(pairOf(asked.answer));
  }
  const { timeout = 0, "tcp-keepalive": keepalive = 0 } = settings;
  const found = `timeout ${timeout} s, tcp-keepalive ${keepalive} s, redis.heartbeatMs ${heartbeatMs}`;
  if (timeout > 0 && timeout * 1_000 <= 2 * heartbeatMs) {
    const advice =
      "the server may cut connections between two heartbeats: timeout 0, or redis.heartbeatMs below half of it";
    return { check, status: "warn", found, advice };
  }
  if (keepalive > 0) return { check, status: "ok", found };
  const advice = "clients whose host died stay in maxclients until the server writes to them: set tcp-keepalive (300)";
  return { check, status: "warn", found, advice };
}

/** Sends what the library sends; what the user may not is told, with what is lost. */
export async function tryPermissions(redis: RedisHandle, name: string, db: number): Promise<Finding> {
  const check = "permissions";
  const last: Readonly<Record<string, string>> = { SETNAME: name, SELECT: String(db), SUBSCRIBE: name };
  const missing: string[] = [];
  for (const [words, without] of OWN_COMMANDS) {
    const [command, ...args] = [...words, ...(last[words.at(-1)!] === undefined ? [] : [last[words.at(-1)!]!])];
    const asked = await ask(redis.call(command!, ...args));
    if ("refused" in asked) missing.push(`${words.join(" ")} (${asked.refused}): ${without}`);
  }
  if (missing.length === 0) {
    return { check, status: "ok", found: `may send ${OWN_COMMANDS.map(([words]) => words.join(" ")).join(", ")}` };
  }
  const advice = "allow these to the ACL user, unless you can do without";
  return { check, status: "warn", found: `refused: ${missing.join("; ")}`, advice };
}

function field(info: string, name: string): string | undefined {
  return new RegExp(`^${name}:(.*?)\\r?$`, "m").exec(info)?.[1];
}

function mib(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** CONFIG GET answers a list, or with RESP3 and its mapping a map. */
function pairOf(answer: unknown): unknown {
  return Array.isArray(answer) ? answer[1] : Object.values(answer ?? {})[0];
}
