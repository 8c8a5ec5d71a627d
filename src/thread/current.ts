import { noopLogger } from "../common/log.js";
import { ThreadClients } from "./clients.js";
import { closeSync } from "./sync-helper.js";

/** On globalThis, so that two copies of this package in one thread share its clients instead of doubling them. */
const KEY = Symbol.for("redthread.thread-clients");
const registry = globalThis as { [KEY]?: ThreadClients | Promise<ThreadClients> | undefined };

/**
 * The clients of this thread: those its manager gave it, else new ones, configured by the environment. A promise only
 * where there is something to wait for: this is on every task's way.
 */
export function currentClients(): ThreadClients | Promise<ThreadClients> {
  return (registry[KEY] ??= fromEnvironment());
}

/** Makes these the clients of this thread. */
export function adopt(clients: ThreadClients): void {
  registry[KEY] = clients;
}

/** Closes this thread's clients, if there are any; the next acquire starts afresh. Connects nothing. */
export async function closeCurrent(ms: number): Promise<void> {
  const current = registry[KEY];
  const closed = closeSync(ms);
  const clients = await Promise.resolve(current).catch(() => undefined); // a configuration that failed opened nothing
  await clients?.close(ms);
  if (registry[KEY] === current) registry[KEY] = undefined;
  await closed;
}

async function fromEnvironment(): Promise<ThreadClients> {
  try {
    // Only here: a thread with a manager never needs dotenv.
    const { loadConfig } = await import("../common/env.js");
    return new ThreadClients({ config: loadConfig(), logger: noopLogger });
  } catch (error) {
    registry[KEY] = undefined;
    throw error;
  }
}
