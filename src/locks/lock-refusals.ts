import { ConfigInvalidError, LockNotAcquiredError } from "../core/errors.js";
import { type Acquired, holderOf } from "./lock-scripts.js";
import { type LockKind, SHARED } from "./lock-table.js";
import { MAX_TEXT_BYTES } from "./record-pool.js";

// Why a lock is not given: the errors and their texts.

export function heldAlready(key: string): LockNotAcquiredError {
  const why = "its caller holds or awaits it already, and would wait for itself: locks are not re-entrant";
  return new LockNotAcquiredError(`no lock ${key}: ${why}`, { outcome: "refused", key, waitedMs: 0 });
}

export function tooLong(bytes: number): ConfigInvalidError {
  const problem = `the lock's key with redis.keyPrefix is too long: ${bytes} bytes instead of ${MAX_TEXT_BYTES}`;
  return new ConfigInvalidError(problem, { outcome: "not-sent", problems: [problem] });
}

export function noFunction(): ConfigInvalidError {
  const problem = "withLock() takes a key, options (such as {}) and a function";
  return new ConfigInvalidError(problem, { outcome: "not-sent", problems: [problem] });
}

export function otherLimit(key: string, limit: number, other: number): ConfigInvalidError {
  const problem = `the holders of the lock ${key} have named the limit ${other}, and this caller ${limit}`;
  return new ConfigInvalidError(problem, { outcome: "refused", problems: [problem] });
}

export function readTooLate(key: string, waitedMs: number): LockNotAcquiredError {
  const why = "it was acquired, but its time was over before this thread had read the reply; it was released again";
  return new LockNotAcquiredError(`no lock ${key} within ${Math.round(waitedMs)} ms: ${why}`, {
    outcome: "refused",
    key,
    waitedMs,
  });
}

export function notAcquired(key: string, waitedMs: number, { held, ttlLeftMs }: Acquired, kind: LockKind): Error {
  const { name, since } = holderOf(held, kind);
  const holds = kind === SHARED ? "is one of its holders" : "holds it";
  const how = since === undefined ? holds : `${holds} since ${new Date(since).toISOString()}`;
  const left = ttlLeftMs === Infinity ? "without a ttl" : `for ${ttlLeftMs} ms more unless it is extended`;
  const by = `${name} ${how}, ${left}`;
  return new LockNotAcquiredError(`no lock ${key} within ${Math.round(waitedMs)} ms: ${by}`, {
    outcome: "refused",
    key,
    waitedMs,
    holder: { name, ttlLeftMs, ...(since !== undefined && { since }) },
  });
}
