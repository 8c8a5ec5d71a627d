import type { MessagePort } from "node:worker_threads";
import type { ManagedHelper } from "../../link/protocol.js";

// What synchronous calls need of their thread, without loading its clients: they may be all that the thread uses.

/** What this thread's manager gave it that its helper needs too. */
export interface Managed extends Omit<ManagedHelper, "port"> {
  /** Tells the manager of a helper: its end of their own link, and the memory in which the manager marks the helper's end. */
  readonly onHelper: (port: MessagePort, area: SharedArrayBuffer) => void;
  /** Ends this thread's handshakes: they stand still while it is blocked, and keep a permit from its helper. */
  readonly giveWay: () => void;
}

/** A thread's helper for synchronous calls. Its module is loaded by the first call. */
export interface OpenHelper {
  /** Closes every client and ends the helper, by force after `ms`; never rejects. */
  close(ms: number): Promise<void>;
}

const MANAGED = Symbol.for("redthread.managed");
const HELPER = Symbol.for("redthread.sync-helper");
/** On globalThis, so that two copies of this package in one thread share a helper. */
const registry = globalThis as { [MANAGED]?: Managed; [HELPER]?: OpenHelper | "closed" | undefined };

export function managed(): Managed | undefined {
  return registry[MANAGED];
}

export function adoptManaged(given: Managed): void {
  registry[MANAGED] = given;
}

export function currentHelper(): OpenHelper | "closed" | undefined {
  return registry[HELPER];
}

export function adoptHelper(helper: OpenHelper): void {
  registry[HELPER] = helper;
}

/** Closes this thread's synchronous clients, if there are any; "for good" refuses new ones. Connects nothing. */
export async function closeSync(ms: number, until?: "for good"): Promise<void> {
  const current = registry[HELPER];
  if (until) registry[HELPER] = "closed";
  if (current && current !== "closed") await current.close(ms);
}
