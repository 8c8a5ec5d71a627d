/** What a thread needs to know of its helper for synchronous calls, which it loads only with the first of them. */
export interface OpenHelper {
  /** Every client is closed and the helper has ended, by itself or by force after `ms`; never rejects. */
  close(ms: number): Promise<void>;
}

/** On globalThis, so that two copies of this package in one thread share a helper. */
const KEY = Symbol.for("redthread.sync-helper");
const registry = globalThis as { [KEY]?: OpenHelper | "closed" | undefined };

export function currentHelper(): OpenHelper | "closed" | undefined {
  return registry[KEY];
}

/** Makes this one the thread's. */
export function adoptHelper(helper: OpenHelper): void {
  registry[KEY] = helper;
}

/** Closes this thread's synchronous clients, if there are any; "for good" refuses new ones. Connects nothing. */
export async function closeSync(ms: number, until?: "for good"): Promise<void> {
  const current = registry[KEY];
  if (until) registry[KEY] = "closed";
  if (current && current !== "closed") await current.close(ms);
}
