import type { OpenOptions } from "../clients/open-client.js";
import { SharedClient } from "../clients/shared-client.js";
import type { OnResubscribed } from "../commands/asked-channels.js";
import type { Config } from "../config/options.js";
import type { ConnectionState } from "../connection/connection-state.js";
import type { Logins } from "../connection/credentials.js";
import type { Logger } from "../core/log.js";
import { type ClientRole, connectionName } from "../core/names.js";
import type { ConnectGate } from "../gate/connect-gate.js";

/** What every client of the main thread is made with. */
interface Shared {
  readonly config: Config;
  readonly gate: ConnectGate;
  readonly logins: Logins | undefined;
  readonly logger: Logger;
}

/** The Redis clients of the main thread. Each connects with its first use. */
export class MainClients {
  readonly primary: SharedClient;
  readonly subscriber: SharedClient;
  #open = 0;

  /** `onResubscribed`: the subscriber has a channel again, on another connection, and may have missed messages. */
  constructor(shared: Shared, onResubscribed: OnResubscribed, onIdentified?: (server: string | undefined) => void) {
    this.primary = this.#client(shared, "primary", { ...shared.config.primary, onIdentified });
    this.subscriber = this.#client(shared, "subscriber", {}, onResubscribed);
  }

  /** How many connections are open. */
  get open(): number {
    return this.#open;
  }

  #client(
    { config, gate, logins, logger }: Shared,
    role: ClientRole,
    { onIdentified, ...lifetime }: { ttlMs?: number; jitter?: number; onIdentified?: OpenOptions["onIdentified"] },
    onResubscribed?: OnResubscribed,
  ): SharedClient {
    const { redis, retry, appName, shutdown } = config;
    const onState = (state: ConnectionState, previous: ConnectionState): void => {
      if (previous === "connected") this.#open--;
      if (state === "connected") this.#open++;
    };
    return new SharedClient({
      ...lifetime,
      open: async (signal, mayBeAway) => {
        // Loaded here and not at start, so that the threads load their ioredis at the same time.
        const { openClient } = await import("../clients/open-client.js");
        const name = connectionName(appName, role);
        const options = { redis, retry, role, logger, name, gate, logins, onState, onResubscribed, onIdentified };
        return openClient(options, shutdown.closeMs, signal, mayBeAway);
      },
      closeMs: shutdown.closeMs,
      idleCheckMs: redis.idleCheckMs,
    });
  }
}
