import type { RedisHandle } from "../commands/ioredis.js";
import type { ConnectOptions } from "../config/options.js";
import { CredentialKeeper } from "../connection/credentials.js";
import { ConfigInvalidError } from "../core/errors.js";
import { noopLogger } from "../core/log.js";
import { connectionName } from "../core/names.js";
import { ownGate } from "../gate/connect-gate.js";

/**
 * A connected client of your own, which you end with `disconnect()`. It reconnects by itself and keeps every rule of
 * redthread's clients. On failure nothing is left open.
 * @throws REDTHREAD_CONFIG_INVALID, REDTHREAD_CONNECT_FAILED at `retry.deadlineMs`, REDTHREAD_AUTH_FAILED at once
 */
export async function connect(options: ConnectOptions = {}): Promise<RedisHandle> {
  // Loaded by the first call: a thread with a manager never needs dotenv, and the main thread must not load ioredis before
  // its threads are started.
  const [{ loadConfig }, { openClient }] = await Promise.all([import("../config/env.js"), import("./open-client.js")]);
  const config = loadConfig(options);
  const { redis, retry, appName, shutdown } = config;
  const { logger = noopLogger } = options;
  const provider = options.redis?.credentials;
  const keeper = provider && new CredentialKeeper({ provider, limitMs: redis.connectTimeoutMs, retry, logger });
  const client = await openClient(
    {
      redis,
      retry,
      role: "owned",
      logger,
      name: connectionName(appName, "owned"),
      gate: ownGate(config),
      logins: keeper?.logins,
      onState: (state) => {
        if (state === "closed") keeper?.stop();
      },
    },
    shutdown.closeMs,
  );
  return client.redis;
}

/**
 * Closes a client made by `connect`: waits for pending replies, sends QUIT, and destroys the socket after `closeMs`
 * (default 2 000). Idempotent; never connects.
 */
export async function disconnect(redis: RedisHandle, { closeMs = 2_000 }: { closeMs?: number } = {}): Promise<void> {
  const { clientOf } = await import("./open-client.js");
  const client = clientOf(redis);
  if (!client)
    throw new ConfigInvalidError("disconnect() takes a client made by connect(): this one is not redthread's");
  await client.end(closeMs);
}
