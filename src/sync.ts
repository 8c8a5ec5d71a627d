import { SyncClient, type SyncOptions } from "./thread/sync/sync-client.js";

export * from "./core/errors.js";
export type { SyncArgument, SyncClient, SyncCommand, SyncOptions } from "./thread/sync/sync-client.js";

/** On globalThis, so that two copies of this package in one thread share it. */
const KEY = Symbol.for("redthread.sync-client");
const registry = globalThis as { [KEY]?: SyncClient };

/**
 * A synchronous client with a connection of its own, for code in a worker thread that cannot await. It is connected and
 * checked when it returns. `close()` or `using` closes it, at the latest the end of the thread's other clients. A thread's
 * first client starts the thread's helper, which costs about 100 ms and 10 to 20 MB: keep the client, or use `getRedisSync`.
 * In a thread that no manager started, the environment configures it.
 * @throws REDTHREAD_CONFIG_INVALID (also on the main thread, which must not block), REDTHREAD_CONNECT_FAILED,
 *   REDTHREAD_AUTH_FAILED, REDTHREAD_SHUTTING_DOWN, REDTHREAD_THREAD_START_FAILED (the helper)
 */
export function openSync(options: SyncOptions = {}): SyncClient {
  return new SyncClient(options);
}

/** This thread's cached synchronous client, which the first call opens and its tasks share; otherwise as `openSync`. */
export function getRedisSync(): SyncClient {
  const cached = registry[KEY];
  return cached && !cached.isClosed ? cached : (registry[KEY] = new SyncClient());
}
