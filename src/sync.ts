import { SyncClient, type SyncOptions } from "./thread/sync/sync-client.js";

export * from "./core/errors.js";
export type { SyncArgument, SyncClient, SyncCommand, SyncOptions } from "./thread/sync/sync-client.js";

/** On globalThis, so that two copies of this package in one thread share it. */
const KEY = Symbol.for("redthread.sync-client");
const registry = globalThis as { [KEY]?: SyncClient };

/**
 * A synchronous client with a connection of its own, for code in a worker thread that cannot await: connected and
 * checked when it returns, closed by `close()` or `using`, and at the latest with the thread's other clients. The first
 * one of a thread starts the thread's helper, which costs about 100 ms and 10 to 20 MB; hold on to it, or use
 * `getRedisSync`. In a thread that no manager started it is configured by the environment.
 * @throws REDTHREAD_CONFIG_INVALID (also on the main thread, which must not block), REDTHREAD_CONNECT_FAILED,
 *   REDTHREAD_AUTH_FAILED, REDTHREAD_SHUTTING_DOWN, REDTHREAD_THREAD_START_FAILED (the helper)
 */
export function openSync(options: SyncOptions = {}): SyncClient {
  return new SyncClient(options);
}

/** This thread's one cached synchronous client, opened by the first call and shared by its tasks; as `openSync`. */
export function getRedisSync(): SyncClient {
  const cached = registry[KEY];
  return cached && !cached.isClosed ? cached : (registry[KEY] = new SyncClient());
}
