import type { Config } from "../../src/config/options.js";
import { loadConfig } from "../../src/config/env.js";
import type { RedisServer } from "./redis-server.js";

type Overrides = Omit<NonNullable<Parameters<typeof loadConfig>[0]>, "env">;

/** A configuration for this server that is independent of the environment. */
export function configFor(server: Pick<RedisServer, "port">, overrides: Overrides = {}): Config {
  return loadConfig({ ...overrides, env: {}, redis: { port: server.port, ...overrides.redis } });
}
