import type { MessagePort } from "node:worker_threads";
import type { ManagedHelper } from "../link/protocol.js";

/** What this thread's manager gave it that its helper needs too. */
export interface Managed extends Omit<ManagedHelper, "port"> {
  /** Tells the manager of a helper: its end of their own link, and the memory in which to say that it is gone. */
  readonly onHelper: (port: MessagePort, area: SharedArrayBuffer) => void;
  /** Ends this thread's handshakes, which stand still while it is blocked, for what they keep from the helper. */
  readonly giveWay: () => void;
}

/** On globalThis, as the thread's clients are: two copies of this package share it. */
const KEY = Symbol.for("redthread.managed");
const registry = globalThis as { [KEY]?: Managed };

export function managed(): Managed | undefined {
  return registry[KEY];
}

export function adoptManaged(given: Managed): void {
  registry[KEY] = given;
}
