import type { Transferable } from "node:worker_threads";
import { disconnect as disconnectOne } from "./clients/connect.js";
import type { RedisHandle } from "./commands/ioredis.js";
import type { AcquireOptions } from "./config/options.js";
import type { Lock, SharedLock } from "./locks/held-lock.js";
import type { LockOptions, SharedLockOptions } from "./locks/lock-options.js";
import type { Locker } from "./locks/locker.js";
import { closeCurrent, currentClients, type DedicatedLease, madeClients, madeNear } from "./thread/clients.js";
import { ConfigInvalidError } from "./core/errors.js";
import type { Near } from "./near/near-cache.js";
import { Transfer } from "./thread/results.js";

export * from "./core/errors.js";
export { cached, threadCached, type Cached, type CacheOptions, type ThreadCacheOptions } from "./core/memo.js";
export { connRetry, type RetryOptions } from "./core/retry.js";
export { connect } from "./clients/connect.js";
export type { ChainableCommander, RedisCommander, RedisHandle, Result } from "./commands/ioredis.js";
export type { Logger } from "./core/log.js";
export type { AcquireOptions, ConnectOptions, Credentials, CredentialsProvider } from "./config/options.js";
export type { Lock, SharedLock } from "./locks/held-lock.js";
export type { LockOptions, SharedLockOptions } from "./locks/lock-options.js";
export type { Near, NearOptions } from "./near/near-cache.js";
export type { DedicatedLease } from "./thread/clients.js";
export type { TaskContext } from "./thread/task.js";

/**
 * This thread's cached client, checked. Concurrent first calls share one connect, and a failed connect is not kept. While
 * Redis is away the client is given all the same, and its commands keep to their deadlines. In a thread that no manager
 * started, the environment configures it.
 * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED (at its first connect); REDTHREAD_SHUTTING_DOWN,
 * REDTHREAD_CONFIG_INVALID, `signal.reason`
 */
export function getRedis(options?: AcquireOptions): Promise<RedisHandle> {
  const signal = options?.signal;
  return madeClients()?.getRedis(signal) ?? currentClients().then((clients) => clients.getRedis(signal));
}

/**
 * Runs `fn` with a client of its own, for WATCH, MULTI, BLPOP, XREAD BLOCK, SUBSCRIBE or MONITOR. The client comes back on
 * every path, and the next holder finds it clean. When `signal` aborts during a blocking command, the connection is closed and
 * the command rejects (REPLY_LOST); a command that begins later is not sent (NOT_SENT).
 * @throws REDTHREAD_ACQUIRE_TIMEOUT, REDTHREAD_AUTH_FAILED, REDTHREAD_SHUTTING_DOWN, `signal.reason`, and what `fn` throws
 */
export function withDedicated<T>(fn: (redis: RedisHandle) => Promise<T>, options?: AcquireOptions): Promise<T> {
  const signal = options?.signal;
  return (
    madeClients()?.withDedicated(fn, signal) ?? currentClients().then((clients) => clients.withDedicated(fn, signal))
  );
}

/** Like `withDedicated`, for callers that must keep the client: `release()` it, or declare it with `await using`. */
export async function acquireDedicated({ signal }: AcquireOptions = {}): Promise<DedicatedLease> {
  return (await currentClients()).acquireDedicated(signal);
}

/**
 * Runs `fn` while this thread holds the lock `key`, and gives its result. A thread that never computes extends the lock, so that
 * it is held also while this thread's loop is blocked.
 * @throws REDTHREAD_LOCK_NOT_ACQUIRED; REDTHREAD_LOCK_LOST if it was not held until the end, whatever `fn` gave; what `fn` throws
 * (its `cause` is then the loss); REDTHREAD_CONFIG_INVALID, REDTHREAD_SHUTTING_DOWN, `signal.reason`; errors of a command
 */
export function withLock<T>(
  key: string | Buffer,
  options: SharedLockOptions,
  fn: (lock: SharedLock) => T | PromiseLike<T>,
): Promise<T>;
export function withLock<T>(
  key: string | Buffer,
  options: LockOptions,
  fn: (lock: Lock) => T | PromiseLike<T>,
): Promise<T>;
export function withLock<T>(
  key: string | Buffer,
  options: LockOptions,
  fn: (lock: Lock) => T | PromiseLike<T>,
): Promise<T> {
  const made = madeClients()?.madeLocker?.withLock(key, options, fn);
  return made ?? firstLocker().then((locker) => locker.withLock(key, options, fn));
}

/** Like `withLock`, for callers that must keep the lock: `release()` it, or declare it with `await using`. */
export function acquireLock(key: string | Buffer, options: SharedLockOptions): Promise<SharedLock>;
export function acquireLock(key: string | Buffer, options?: LockOptions): Promise<Lock>;
export function acquireLock(key: string | Buffer, options: LockOptions = {}): Promise<Lock> {
  return (
    madeClients()?.madeLocker?.acquire(key, options) ?? firstLocker().then((locker) => locker.acquire(key, options))
  );
}

async function firstLocker(): Promise<Locker> {
  return (await currentClients()).locker();
}

/** The near cache of this thread. */
export const near: Near = {
  get: (key, options) => madeNear()?.get(key, options) ?? Promise.reject(noNear()),
  getBuffer: (key, options) => madeNear()?.getBuffer(key, options) ?? Promise.reject(noNear()),
  json: (key, options) => madeNear()?.json(key, options) ?? Promise.reject(noNear()),
  mget: (keys, options) => madeNear()?.mget(keys, options) ?? Promise.reject(noNear()),
  peek(key) {
    const cache = madeNear();
    if (!cache) throw noNear();
    return cache.peek(key);
  },
};

function noNear(): ConfigInvalidError {
  return new ConfigInvalidError(
    "this thread has no near cache: nearCache.prefixes is missing, or no manager started the thread (on the main thread: manager.near)",
    {
      outcome: "not-sent",
    },
  );
}

/**
 * Closes a client made by `connect`, or without an argument this thread's cached clients; the next `getRedis()` connects anew.
 * It takes at most `closeMs` (default 2 000). It is idempotent, and connects nothing.
 */
export async function disconnect(redis?: RedisHandle, { closeMs = 2_000 }: { closeMs?: number } = {}): Promise<void> {
  await (redis ? disconnectOne(redis, { closeMs }) : closeCurrent(closeMs));
}

/**
 * A task's whole result, which moves the buffers in `list` to the main thread instead of copying them. An ArrayBuffer moves only
 * if the value's views cover all of it. Otherwise it is copied, because other parts of it may belong to another task.
 */
export function transfer<T>(value: T, list: readonly Transferable[]): T {
  // The thread's runtime unwraps it, so that task and caller see the value.
  return new Transfer(value, list) as T;
}
