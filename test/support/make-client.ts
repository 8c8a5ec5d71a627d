import { after, type TestContext } from "node:test";
import { Client, type ClientOptions } from "../../src/connection/client.js";
import { ownGate } from "../../src/gate/connect-gate.js";
import { noopLogger } from "../../src/core/log.js";
import type { RedisOptions, RetryConfig } from "../../src/config/options.js";
import { configFor } from "./fast-config.js";
import { beginLeakCheck, leakCheck } from "./leak-check.js";
import { startRedis, type RedisServer, type RedisServerOptions } from "./redis-server.js";

interface ClientSetup extends Partial<Pick<ClientOptions, "role" | "logger" | "logins" | "onState">> {
  /** Where to connect to, when not to the server itself. */
  readonly port?: number;
  readonly redis?: Partial<RedisOptions>;
  readonly retry?: Partial<RetryConfig>;
}

/** For a file whose every test spoils its server: starts one each, stops them all when the file is through. */
export function serverPerTest(): (options?: RedisServerOptions) => Promise<RedisServer> {
  const servers: RedisServer[] = [];
  after(() => Promise.all(servers.map((server) => server.stop())));
  return async (options) => {
    const server = await startRedis(options);
    servers.push(server);
    return server;
  };
}

/** All of a test are closed before anybody looks whether the first one left something. */
const clients = new WeakMap<TestContext, Client[]>();

/** A client that is not connected yet; after the test it is closed, and the server lists nobody. */
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

/** What a promise was rejected with; undefined if it was not. */
export async function rejection(promise: PromiseLike<unknown>): Promise<Error | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return error as Error;
  }
}
