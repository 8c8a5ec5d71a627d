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

/** In a Cluster a WAIT would have to go to the node of each lock, on the connection that has acquired it. */
export function noReplicasInCluster(): ConfigInvalidError {
  const problem = "locks with replicas are not possible with redis.clusterNodes: WAIT has no key, and so no node";
  return new ConfigInvalidError(problem, { outcome: "not-sent", problems: [problem] });
}

function tooFewReplicas(key: string, waitedMs: number, wanted: number, acknowledged: number): LockNotAcquiredError {
  const why = `${acknowledged} of ${wanted} replicas had acknowledged it; it was released again`;
  return new LockNotAcquiredError(`no lock ${key} within ${Math.round(waitedMs)} ms: ${why}`, {
    outcome: "refused",
    key,
    waitedMs,
    replicas: { wanted, acknowledged },
  });
}

/** Others hold it, or too few replicas have acknowledged it. */
export function notAcquired(
  key: string,
  waitedMs: number,
  { held, ttlLeftMs, acknowledged }: Acquired,
  { kind, replicas }: { readonly kind: LockKind; readonly replicas: number },
): Error {
  if (acknowledged !== undefined) return tooFewReplicas(key, waitedMs, replicas, acknowledged);
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
