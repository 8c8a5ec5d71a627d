import { ConfigInvalidError } from "../core/errors.js";
import { unknownOption } from "../core/names.js";

export interface LockOptions {
  /** How long the lock lasts if it is not extended. It is extended every third of this, by another thread. 500 to 86 400 000; default 10 000. */
  readonly ttlMs?: number | undefined;
  /** How long to wait for the lock; 0 tries once. Default 5 000. */
  readonly waitMs?: number | undefined;
  /** The longest time that it is held: a holder that hangs loses it then. Infinity for no limit; default 300 000. */
  readonly maxHoldMs?: number | undefined;
  /**
   * How many replicas of the server must have acknowledged the lock, at its acquire and at each extension. Then a failover to one of
   * them keeps the lock. 0 to 10; default 0. Not in a Cluster.
   */
  readonly replicas?: number | undefined;
  /** Ends the wait for the lock. */
  readonly signal?: AbortSignal | undefined;
}

export interface SharedLockOptions extends LockOptions {
  /** How many callers may hold it at the same time, in all processes. All of them have to name the same limit: 1 to 10 000. */
  readonly limit: number;
}

export interface LockTimes {
  readonly ttlMs: number;
  readonly waitMs: number;
  readonly maxHoldMs: number;
  readonly limit: number;
  readonly replicas: number;
}

const MIN_TTL_MS = 500;
const DAY_MS = 24 * 3_600_000;

const DEFAULTS: LockTimes = { ttlMs: 10_000, waitMs: 5_000, maxHoldMs: 300_000, limit: 1, replicas: 0 };
const KNOWN = { ...DEFAULTS, signal: undefined };

const MAX_LIMIT = 10_000;
const MAX_REPLICAS = 10;

/** A token and a key have to fit into shared memory; a longer key is a mistake. */
const MAX_KEY_BYTES = 4_096;

/** @throws REDTHREAD_CONFIG_INVALID, with everything that is wrong */
export function lockTimes(key: unknown, options: LockOptions | SharedLockOptions): LockTimes {
  const problems: string[] = [];
  const check = (isGood: boolean, problem: string): void => void (isGood || problems.push(problem));
  const isKey = typeof key === "string" || Buffer.isBuffer(key);
  check(isKey && key.length > 0, "the key must be a text or a Buffer, and not empty");
  check(!isKey || Buffer.byteLength(key) <= MAX_KEY_BYTES, `the key must have at most ${MAX_KEY_BYTES} bytes`);
  const unknown = unknownOption(options, KNOWN);
  if (unknown !== undefined) problems.push(unknown);
  const {
    ttlMs = DEFAULTS.ttlMs,
    waitMs = DEFAULTS.waitMs,
    maxHoldMs = DEFAULTS.maxHoldMs,
    limit = DEFAULTS.limit,
    replicas = DEFAULTS.replicas,
    signal,
  } = Object(options) as Partial<SharedLockOptions>;
  check(isTtl(ttlMs), `ttlMs must be ${MIN_TTL_MS} to ${DAY_MS}`);
  check(isWithin(waitMs, 0, DAY_MS), `waitMs must be 0 to ${DAY_MS}`);
  check(maxHoldMs === Infinity || isWithin(maxHoldMs, 1, DAY_MS), `maxHoldMs must be 1 to ${DAY_MS}, or Infinity`);
  check(isWhole(limit, 1, MAX_LIMIT), `limit must be a whole number, 1 to ${MAX_LIMIT}`);
  check(isWhole(replicas, 0, MAX_REPLICAS), `replicas must be a whole number, 0 to ${MAX_REPLICAS}`);
  check(signal === undefined || isSignal(signal), "signal must be an AbortSignal");
  if (problems.length > 0) {
    throw new ConfigInvalidError(`the lock cannot be asked for: ${problems.join("; ")}`, {
      outcome: "not-sent",
      problems,
    });
  }
  const wholeHoldMs = maxHoldMs === Infinity ? maxHoldMs : Math.ceil(maxHoldMs);
  return { ttlMs: Math.ceil(ttlMs), waitMs, maxHoldMs: wholeHoldMs, limit, replicas };
}

export function isTtl(ttlMs: unknown): boolean {
  return isWithin(ttlMs, MIN_TTL_MS, DAY_MS);
}

/** Of any realm, because test runners have several. */
function isSignal(value: unknown): boolean {
  return Object.prototype.toString.call(value) === "[object AbortSignal]";
}

function isWithin(value: unknown, least: number, most: number): boolean {
  return typeof value === "number" && value >= least && value <= most;
}

function isWhole(value: unknown, least: number, most: number): boolean {
  return Number.isInteger(value) && isWithin(value, least, most);
}
