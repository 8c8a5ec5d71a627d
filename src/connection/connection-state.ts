import { threadId } from "node:worker_threads";
import { connectionChannel } from "../core/channels.js";
import { errorCode } from "../core/log.js";
import type { ClientRole } from "../core/names.js";
import { monotonic } from "../core/clock.js";

export type ConnectionState = "disconnected" | "connecting" | "connected" | "closed";

export interface StateMachineOptions {
  readonly name: string;
  readonly role: ClientRole;
  readonly onState?: (state: ConnectionState, previous: ConnectionState) => void;
  /** Why a connection was lost, as far as is known. */
  readonly lastError: () => Error | undefined;
}

const NEXT: Record<ConnectionState, readonly ConnectionState[]> = {
  disconnected: ["connecting", "closed"],
  connecting: ["connected", "disconnected", "closed"],
  connected: ["connecting", "closed"],
  closed: [],
};

/** The states of one connection, each step checked, and told to who listens to `redthread:connection`. */
export class StateMachine {
  readonly #options: StateMachineOptions;
  #state: ConnectionState = "disconnected";
  #connectingSince = 0;

  constructor(options: StateMachineOptions) {
    this.#options = options;
  }

  get state(): ConnectionState {
    return this.#state;
  }

  become(state: ConnectionState): void {
    const previous = this.#state;
    if (state === previous) return;
    const { name, onState } = this.#options;
    if (!NEXT[previous].includes(state)) throw new Error(`${name} cannot go from ${previous} to ${state}`);
    this.#state = state;
    onState?.(state, previous);
    if (state === "connecting") this.#connectingSince = monotonic();
    if (connectionChannel.hasSubscribers) this.#publish(state, previous);
  }

  #publish(state: ConnectionState, previous: ConnectionState): void {
    const { name, role, lastError } = this.#options;
    const message = { name, role, threadId };
    if (state === "connected") {
      const durationMs = monotonic() - this.#connectingSince;
      connectionChannel.publish({ event: "connected", ...message, durationMs });
    } else if (state === "closed") connectionChannel.publish({ event: "closed", ...message });
    else if (previous === "connected") {
      const error = lastError();
      connectionChannel.publish({ event: "lost", ...message, ...(error && { code: errorCode(error) }) });
    }
  }
}
