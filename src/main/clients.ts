import { SharedClient } from "../clients/shared-client.js";
import type { OnResubscribed } from "../commands/asked-channels.js";
import type { Config } from "../config/options.js";
import type { ConnectionState } from "../connection/connection-state.js";
import type { Logins } from "../connection/logins.js";
import type { Logger } from "../core/log.js";
import { type ClientRole, connectionName } from "../core/names.js";
import type { ConnectGate } from "../gate/connect-gate.js";

export interface MainClientsOptions {
  readonly config: Config;
  readonly gate: ConnectGate;
  readonly logins: Logins | undefined;
  readonly logger: Logger;
  /** The subscriber hears this channel on another connection: it may have missed messages. */
  readonly onResubscribed: OnResubscribed;
}

/** All the Redis clients of the main thread, each connected when somebody asks for it. */
export class MainClients {
  readonly primary: SharedClient;
  readonly subscriber: SharedClient;
  readonly #options: MainClientsOptions;
  #open = 0;

  constructor(options: MainClientsOptions) {
    this.#options = options;
    this.primary = this.#shared("primary", options.config.primary);
    this.subscriber = this.#shared("subscriber", {}, options.onResubscribed);
  }

  /** Connections. */
  get open(): number {
    return this.#open;
  }

  #shared(
    role: ClientRole,
    lifetime: { ttlMs?: number; jitter?: number },
    onResubscribed?: OnResubscribed,
  ): SharedClient {
    const { config, gate, logins, logger } = this.#options;
    const { redis, retry, appName, shutdown } = config;
    return new SharedClient({
      ...lifetime,
      open: async (signal, mayBeAway) => {
        // Not at load: while ioredis is loaded here, the threads are loading theirs.
        const { openClient } = await import("../clients/open-client.js");
        const name = connectionName(appName, role);
        const onState = this.#count.bind(this);
        const events = { onState, onResubscribed };
        const options = { redis, retry, role, logger, name, gate, logins, ...events };
        return openClient(options, shutdown.closeMs, signal, mayBeAway);
      },
      closeMs: shutdown.closeMs,
      idleCheckMs: redis.idleCheckMs,
    });
  }

  #count(state: ConnectionState, previous: ConnectionState): void {
    if (previous === "connected") this.#open--;
    if (state === "connected") this.#open++;
  }
}
