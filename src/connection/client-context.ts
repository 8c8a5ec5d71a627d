import type { OnResubscribed } from "../commands/asked-channels.js";
import type { CommandQueue } from "../commands/command-queue.js";
import type { Handle } from "../commands/handle.js";
import type { KeyPositions } from "../commands/key-positions.js";
import type { RedisConfig, RetryConfig } from "../config/options.js";
import { ConnectFailedError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import type { ClientRole } from "../core/names.js";
import type { ServerGate } from "../gate/connect-gate.js";
import type { ConnectionState } from "./connection-state.js";
import type { Logins } from "./credentials.js";

export interface ClientOptions {
  readonly redis: RedisConfig;
  readonly retry: RetryConfig;
  /** The connection's name on the server, and in errors and logs. */
  readonly name: string;
  readonly role: ClientRole;
  readonly logger: Logger;
  /** The gate of this thread: every socket passes it. */
  readonly gate: ServerGate;
  /** Replaces the configured username and password. */
  readonly logins?: Logins | undefined;
  readonly onState?: (state: ConnectionState, previous: ConnectionState) => void;
  readonly onReconnected?: () => void;
  /** Makes each connection ask for the server's run id, and is told of it; undefined if the server does not tell. */
  readonly onIdentified?: ((server: string | undefined) => void) | undefined;
  readonly onResubscribed?: OnResubscribed | undefined;
  /** This client leads to a node of a Cluster: the ClusterClient decides where subscriptions are restored. Default false. */
  readonly isNode?: boolean;
  /** Whether the owner is connected to another node of the Cluster already: this connection then queues with the leases. */
  readonly isFurther?: () => boolean;
  /** Finds the keys that ioredis does not find: a `keyPrefix` needs it. */
  readonly KeyPositions?: typeof KeyPositions | undefined;
  /** A connection that was silent for longer gets a PING before it is written to. Default: never. */
  readonly idleCheckMs?: number;
}

/** What the parts of a `Client` use of it. */
export interface ClientContext {
  readonly options: ClientOptions;
  readonly redis: Handle;
  readonly commandQueue: CommandQueue;
  /** Aborted when the client is closed: ends every wait. */
  readonly life: AbortSignal;
  /** What ioredis last said about the socket, or why we ended the connection. */
  lastError: Error | undefined;
  /** Why the last attempt to connect failed. */
  lastFailure: Error | undefined;
  /** The run id of the server that it is connected to; see `onIdentified`. */
  server: string | undefined;
  isAlive(): boolean;
  /** Writes what was held, unless the connection is about to be replaced. */
  release(): void;
}

export function connectFailed(client: ClientContext, cause: unknown = client.lastError): ConnectFailedError {
  const { name, redis } = client.options;
  const where = redis.path ?? redis.sentinelName ?? `${redis.host}:${redis.port}`;
  const reason = cause instanceof Error ? `: ${cause.message || (cause as NodeJS.ErrnoException).code}` : "";
  return new ConnectFailedError(`no connection for ${name} to ${where}${reason}`, { outcome: "not-sent", cause });
}
