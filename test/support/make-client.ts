import { after, type TestContext } from "node:test";
import { Client } from "../../src/connection/client.js";
import type { ClientOptions } from "../../src/connection/client-context.js";
import { ownGate } from "../../src/gate/connect-gate.js";
import { noopLogger } from "../../src/core/log.js";
import type { RedisOptions, RetryConfig } from "../../src/config/options.js";
import { configFor } from "./fast-config.js";
import { beginLeakCheck, leakCheck } from "./leak-check.js";
import { startRedis, type RedisServer, type RedisServerOptions } from "./redis-server.js";

interface ClientSetup extends Partial<Pick<ClientOptions, "role" | "logger" | "logins" | "onState">> {
  /** The address, if it is not the server's own. */
  readonly port?: number;
  readonly redis?: Partial<RedisOptions>;
  readonly retry?: Partial<RetryConfig>;
}

/**
 * For a file whose every test spoils its server: starts a server for each, and stops all of them at the end of the
 * file.
 */
export function serverPerTest(): (options?: RedisServerOptions) => Promise<RedisServer> {
  const servers: RedisServer[] = [];
  after(() => Promise.all(servers.map((server) => server.stop())));
  return async (options) => {
    const server = await startRedis(options);
    servers.push(server);
    return server;
  };
}

/** All clients of a test are closed before the check whether the first one left something. */
const clients = new WeakMap<TestContext, Client[]>();

/** A client that is not connected yet. After the test it is closed, and the server lists no client. */
export function makeClient(
  t: TestContext,
  server: RedisServer,
  { port = server.port, redis = {}, retry = {}, ...options }: ClientSetup = {},
): Client {
  const config = configFor({ port }, { redis, retry: { baseDelayMs: 5, maxDelayMs: 20, ...retry } });
  beginLeakCheck(t);
  const client = new Client({
    name: "redthread:test:client",
    role: "thread",
    logger: noopLogger,
    ...options,
    redis: config.redis,
    retry: config.retry,
    gate: ownGate(config),
  });
  const made = clients.get(t) ?? [];
  if (made.length === 0) t.after(() => Promise.all(made.map((one) => one.close(1_000))));
  made.push(client);
  clients.set(t, made);
  leakCheck(t, server);
  return client;
}

/** As `makeClient`, connected. */
export async function openClient(t: TestContext, server: RedisServer, setup: ClientSetup = {}): Promise<Client> {
  const client = makeClient(t, server, setup);
  await client.connect();
  return client;
}

/** The reason of a promise's rejection; undefined if it was not rejected. */
export async function rejection(promise: PromiseLike<unknown>): Promise<Error | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return error as Error;
  }
}
