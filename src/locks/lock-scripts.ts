import type { RedisHandle } from "../commands/ioredis.js";
import { type ScriptDefinition, scriptFunction } from "../commands/scripts.js";
import { isCluster } from "./lock-nodes.js";
import { FETCHED, KEPT, type LockKind, OWNED, SHARED } from "./lock-table.js";
import { ACQUIRE_SHARED, EXTEND_SHARED, releaseSharedBy } from "./semaphore-scripts.js";

// What runs on the server. A lock is a string: token, fence, when it was acquired (ms since 1970) and its holder's name, with
// spaces between. The lock of a BullMQ job is its token alone. A script knows its lock by the token and what is behind it.

/** How long the counter behind the fences is kept. A new one begins with the server's time, and so above all earlier fences. */
const FENCE_TTL_MS = 24 * 3_600_000;
const FENCE_TTLS = 10;

/** A holder has so many fences: one for itself, the others for the callers of its thread that it passes the lock on to. */
export const FENCES = 16;

/** At most so many locks are extended by one script, because the server does nothing else meanwhile. */
export const BATCH = 100;

/** A key of another type is not ours, and must not keep the other locks of a script from their extension. */
const OWN =
  "local function own(key, token) local held = redis.pcall('GET', key) return held == token or type(held) == 'string' and string.sub(held, 1, #token + 1) == token .. ' ' end\n";

/** KEYS: lock, fence. ARGV: mark, ttl, ttl of the fence, holder. Lua would write so large a number as 1.79e+15. */
export const ACQUIRE: ScriptDefinition = {
  numberOfKeys: 2,
  lua: `local held = redis.call('GET', KEYS[1])
if held then
  if string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then return {0, held, redis.call('PTTL', KEYS[1])} end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, held}
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fence = string.format('%.0f', math.max((tonumber(redis.call('GET', KEYS[2])) or 0) + 1, now))
redis.call('SET', KEYS[2], string.format('%.0f', fence + ${FENCES - 1}), 'PX', ARGV[3])
held = ARGV[1] .. fence .. ' ' .. string.format('%.0f', math.floor(now / 1000)) .. ' ' .. ARGV[4]
redis.call('SET', KEYS[1], held, 'PX', ARGV[2])
return {1, held}`,
};

/** KEYS: the locks. ARGV: for each lock its token and its ttl. Says for each whether it was extended. */
const EXTEND: ScriptDefinition = {
  lua: `${OWN}local done = {}
for i = 1, #KEYS do
  done[i] = own(KEYS[i], ARGV[2 * i - 1]) and redis.call('PEXPIRE', KEYS[i], ARGV[2 * i]) or 0
end
return done`,
};

/**
 * KEYS: lists of active jobs. ARGV: for each list the token of the job that was fetched, and its ttl. Says for each whether it
 * was extended. A job's lock is beside the list.
 */
const EXTEND_FETCHED: ScriptDefinition = {
  lua: `${OWN}local done = {}
for i, list in ipairs(KEYS) do
  done[i] = 0
  local queue = string.match(list, '^(.*:)')
  for _, job in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local lock = queue .. job .. ':lock'
    if own(lock, ARGV[2 * i - 1]) then done[i] = redis.call('PEXPIRE', lock, ARGV[2 * i]) end
  end
end
return done`,
};

/**
 * KEYS: the lock. ARGV: its token, the channel of its waiters. In a Cluster PUBLISH would go to all nodes, and SPUBLISH stays on
 * the lock's node. A user may have no right to publish, and a server before 7.0 has no SPUBLISH: waiters look by themselves.
 * The channel is none of the KEYS, because then the user would need a right to a key of this name.
 */
const releaseBy = (publish: string): ScriptDefinition => ({
  numberOfKeys: 1,
  lua: `${OWN}if not own(KEYS[1], ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.pcall('${publish}', ARGV[2], '')
return 1`,
});

export const RELEASE = releaseBy("PUBLISH");

const scripts = {
  acquire: scriptFunction(ACQUIRE, "utf8"),
  acquireShared: scriptFunction(ACQUIRE_SHARED, "utf8"),
  extend: scriptFunction(EXTEND, "utf8"),
  extendFetched: scriptFunction(EXTEND_FETCHED, "utf8"),
  extendShared: scriptFunction(EXTEND_SHARED, "utf8"),
  release: scriptFunction(RELEASE, "utf8"),
  releaseShared: scriptFunction(releaseSharedBy("PUBLISH"), "utf8"),
  releaseInCluster: scriptFunction(releaseBy("SPUBLISH"), "utf8"),
  releaseSharedInCluster: scriptFunction(releaseSharedBy("SPUBLISH"), "utf8"),
};

/** By the kind of the locks. */
const EXTENDING = {
  [OWNED]: scripts.extend,
  [KEPT]: scripts.extend,
  [FETCHED]: scripts.extendFetched,
  [SHARED]: scripts.extendShared,
};

/** Stands behind the key in the name of the key of the holders. */
const HOLDERS = ":holders";
/** The same for the channel of its waiters. */
const RELEASED = ":released";

/** What holds a lock, as its value tells. */
export interface Holder {
  /** When it was acquired, in ms since 1970, by the server's clock. Unknown with a limit. */
  readonly since?: number;
  readonly name: string;
}

export interface Acquired {
  readonly isAcquired: boolean;
  /** The limit of the other holders, if it is another one. */
  readonly otherLimit?: number;
  /** The value of the lock, or its holder, for `fenceOf` and `holderOf`. */
  readonly held: string;
  /** How long the holder's lock lasts if it is not extended: Infinity if its key has no ttl. */
  readonly ttlLeftMs: number;
  /** How many replicas have acknowledged the lock, if they were too few: it was released again. */
  readonly acknowledged?: number;
}

/** What takes a command: a client, or what is written at once. */
export type CommandTarget = Pick<RedisHandle, "sendCommand"> & {
  /** Scripts are sent in full: nothing has to be sent again behind the other commands. */
  readonly isPipeline?: true;
};

/** The same token again means that the lock was acquired before, and that the reply was lost. */
export async function acquire(
  redis: CommandTarget,
  key: string | Buffer,
  token: string,
  ttlMs: number,
  name: string,
): Promise<Acquired> {
  const fenceTtlMs = Math.max(FENCE_TTL_MS, FENCE_TTLS * ttlMs);
  const args = [key, fenceKey(key), `${token} `, ttlMs, fenceTtlMs, name];
  const [isAcquired, held, leftMs = 0] = (await run(redis, scripts.acquire, args)) as [number, string, number?];
  return { isAcquired: isAcquired === 1, held, ttlLeftMs: leftMs < 0 ? Infinity : leftMs };
}

export function fenceOf(held: string): number {
  const start = held.indexOf(" ") + 1;
  return Number(held.slice(start, held.indexOf(" ", start)));
}

/** Another library may have written what is there. */
export function holderOf(held: string, kind: LockKind): Holder {
  if (kind === SHARED) return { name: held.slice(held.indexOf(" ") + 1) };
  const [, fence = "", since, ...name] = held.split(" ");
  const isOurs = /^\d+$/.test(fence) && /^\d{1,15}$/.test(since ?? "") && name.length > 0;
  return isOurs ? { since: Number(since), name: name.join(" ") } : { name: "a client that is not redthread's" };
}

/** Whether each lock was extended; false where its key is gone or another's. All are of this kind. */
export async function extend(
  redis: CommandTarget,
  kind: LockKind,
  locks: readonly { readonly key: Buffer; readonly token: string; readonly ttlMs: number }[],
): Promise<boolean[]> {
  const keys = locks.map(({ key }) => key);
  const args = locks.flatMap(({ token, ttlMs }) => [token, ttlMs]);
  return ((await run(redis, EXTENDING[kind], [keys.length, ...keys, ...args])) as number[]).map((one) => one === 1);
}

/** As `acquire`, for one of `limit` holders. */
export async function acquireShared(
  redis: CommandTarget,
  holders: string | Buffer,
  holder: string,
  ttlMs: number,
  limit: number,
): Promise<Acquired> {
  const args = [holders, holder, ttlMs, limit];
  const [state, held, ttlLeftMs = 0] = (await run(redis, scripts.acquireShared, args)) as [number, string, number?];
  return { isAcquired: state === 1, held, ttlLeftMs, ...(state === 2 && { otherLimit: Number(held) }) };
}

/** Does nothing if it is not this token's any more. */
export function release(redis: CommandTarget, kind: LockKind, key: string | Buffer, token: string): Promise<unknown> {
  const isSharded = isCluster(redis);
  if (kind !== SHARED) {
    const script = isSharded ? scripts.releaseInCluster : scripts.release;
    return run(redis, script, [key, token, channelOf(key)]);
  }
  const script = isSharded ? scripts.releaseSharedInCluster : scripts.releaseShared;
  return run(redis, script, [key, token, channelOfHolders(key)]);
}

/** The key of the holders of a lock with a limit. */
export function holdersKey(key: string | Buffer): string | Buffer {
  return tagged(key, HOLDERS);
}

function channelOfHolders(holders: string | Buffer): string | Buffer {
  const end = holders.length - HOLDERS.length;
  if (typeof holders === "string") return holders.slice(0, end) + RELEASED;
  return Buffer.concat([holders.subarray(0, end), Buffer.from(RELEASED)]);
}

/** The keys are whole: `redis.keyPrefix` is in them already, and the fence's key could not be found behind it in a Cluster. */
function run(redis: CommandTarget, script: (...args: unknown[]) => unknown, args: unknown[]): Promise<unknown> {
  const { isPipeline } = redis;
  const caller = { options: {}, isPipeline, sendCommand: (command: never) => redis.sendCommand(command) };
  return Reflect.apply(script, caller, args) as Promise<unknown>;
}

/** On the lock's node of a Cluster: it has the same hash tag. */
function fenceKey(key: string | Buffer): string | Buffer {
  return tagged(key, ":fence");
}

/** What a waiter for the lock subscribes to. */
export function channelOf(key: Buffer): Buffer;
export function channelOf(key: string | Buffer): string | Buffer;
export function channelOf(key: string | Buffer): string | Buffer {
  return tagged(key, RELEASED);
}

/** The key with a hash tag, and what is behind it. Without a tag of its own the whole key becomes the tag. */
function tagged(key: string | Buffer, end: string): string | Buffer {
  const [open, close] = hasTag(key) ? ["", end] : ["{", `}${end}`];
  // A command with a Buffer costs more to write.
  return typeof key === "string" ? open + key + close : Buffer.concat([Buffer.from(open), key, Buffer.from(close)]);
}

function hasTag(key: string | Buffer): boolean {
  const open = key.indexOf("{");
  return open !== -1 && key.indexOf("}", open + 1) > open + 1;
}

/** In a Cluster such a key has no name on the same node: in braces the tag would end at its own brace. */
export function isUntaggable(key: string | Buffer): boolean {
  return key.includes("}") && !hasTag(key);
}
