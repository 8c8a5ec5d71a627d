import { noopLogger } from "../core/log.js";
import { ThreadClients } from "./clients.js";
import { closeSync } from "./sync/sync-registry.js";

interface Registry {
  clients: ThreadClients | undefined;
  opening: Promise<ThreadClients> | undefined;
}

/** On globalThis, so that two copies of this package in one thread share its clients instead of doubling them. */
const KEY = Symbol.for("redthread.thread-clients");
// Looked up once: a property of globalThis is slow to read, and every getRedis() comes here.
const registry = ((globalThis as { [KEY]?: Registry })[KEY] ??= { clients: undefined, opening: undefined });

/** The clients of this thread, if it has them already. */
export function madeClients(): ThreadClients | undefined {
  return registry.clients;
}

/** The clients of this thread: those its manager gave it, else new ones, configured by the environment. */
export async function currentClients(): Promise<ThreadClients> {
  return registry.clients ?? (registry.opening ??= fromEnvironment().finally(() => (registry.opening = undefined)));
}

/** Makes these the clients of this thread. */
export function adopt(clients: ThreadClients): void {
  registry.clients = clients;
}

/** Closes this thread's clients, if there are any; the next acquire starts afresh. Connects nothing. */
export async function closeCurrent(ms: number): Promise<void> {
  const closed = closeSync(ms);
  const clients = registry.clients ?? (await registry.opening?.catch(() => undefined)); // one that failed opened nothing
  await clients?.close(ms);
  if (registry.clients === clients) registry.clients = undefined;
  await closed;
}

async function fromEnvironment(): Promise<ThreadClients> {
  // Only here: a thread with a manager never needs dotenv.
  const { loadConfig } = await import("../config/env.js");
  return (registry.clients = new ThreadClients({ config: loadConfig(), logger: noopLogger }));
}
