import { threadId } from "node:worker_threads";
import { connectionChannel } from "../core/channels.js";
import { errorCode } from "../core/log.js";
import type { ClientRole } from "../core/names.js";
import { monotonic } from "../core/clock.js";

export type ConnectionState = "disconnected" | "connecting" | "connected" | "closed";

interface StatefulClient {
  readonly options: {
    readonly name: string;
    readonly role: ClientRole;
    readonly onState?: (state: ConnectionState, previous: ConnectionState) => void;
  };
  /** Why the connection was lost, as far as is known. */
  readonly lastError: Error | undefined;
}

const NEXT: Record<ConnectionState, readonly ConnectionState[]> = {
  disconnected: ["connecting", "closed"],
  connecting: ["connected", "disconnected", "closed"],
  connected: ["connecting", "closed"],
  closed: [],
};

/** The states of one connection. Each step is checked, and published on the channel `redthread:connection`. */
export class StateMachine {
  /** Changed by `become` only. */
  state: ConnectionState = "disconnected";
  readonly #client: StatefulClient;
  #connectingSince = 0;

  constructor(client: StatefulClient) {
    this.#client = client;
  }

  become(state: ConnectionState): void {
    const previous = this.state;
    if (state === previous) return;
    const { name, onState } = this.#client.options;
    if (!NEXT[previous].includes(state)) throw new Error(`${name} cannot go from ${previous} to ${state}`);
    this.state = state;
    onState?.(state, previous);
    if (state === "connecting") this.#connectingSince = monotonic();
    if (connectionChannel.hasSubscribers) this.#publish(state, previous);
  }

  #publish(state: ConnectionState, previous: ConnectionState): void {
    const { options, lastError } = this.#client;
    const message = { name: options.name, role: options.role, threadId };
    if (state === "connected") {
      const durationMs = monotonic() - this.#connectingSince;
      connectionChannel.publish({ event: "connected", ...message, durationMs });
    } else if (state === "closed") connectionChannel.publish({ event: "closed", ...message });
    else if (previous === "connected")
      connectionChannel.publish({ event: "lost", ...message, ...(lastError && { code: errorCode(lastError) }) });
  }
}
