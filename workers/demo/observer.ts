import { Redis } from "ioredis";
import type { DemoRedis } from "./redis-source.js";

const NAME = "observer";
const CONNECT_MS = 5_000;
const COMMAND_MS = 30_000;
const KEYS_AT_ONCE = 500;
/** A server may list a client for a moment after the client's connection was closed. */
const SETTLE_MS = 1_000;

/**
 * A plain ioredis client beside the demo: it sees what the demo left on the server. It connects first and disconnects
 * last.
 */
export class Observer {
  readonly #client: Redis;
  readonly #redis: DemoRedis;

  private constructor(client: Redis, redis: DemoRedis) {
    this.#client = client;
    this.#redis = redis;
  }

  static async use<T>(redis: DemoRedis, fn: (observer: Observer) => Promise<T>): Promise<T> {
    const client = await connect(redis);
    try {
      return await fn(new Observer(client, redis));
    } finally {
      client.disconnect();
    }
  }

  /** Connections on the server other than the observer's; on a shared server, connections with the demo's name. */
  async connectionsLeft(appName: string): Promise<number> {
    const giveUpAt = performance.now() + SETTLE_MS;
    for (;;) {
      const left = await this.#others(appName);
      if (left.length === 0 || performance.now() > giveUpAt) return left.length;
    }
  }

  async deleteKeys(keys: readonly string[]): Promise<void> {
    for (let at = 0; at < keys.length; at += KEYS_AT_ONCE) await this.#client.del(...keys.slice(at, at + KEYS_AT_ONCE));
  }

  async #others(appName: string): Promise<string[]> {
    const own = `id=${await this.#client.client("ID")} `;
    const all = String(await this.#client.client("LIST"))
      .trim()
      .split("\n");
    return all.filter((line) => {
      const isOurs = this.#redis.isShared ? line.includes(` name=redthread:${appName}:`) : true;
      return isOurs && !line.startsWith(own);
    });
  }
}

async function connect({ url, name }: DemoRedis): Promise<Redis> {
  const options = {
    connectionName: NAME,
    lazyConnect: true,
    retryStrategy: null,
    connectTimeout: CONNECT_MS,
    commandTimeout: COMMAND_MS,
  };
  const path = /^unix:(?:\/\/)?(\/.*)$/.exec(url)?.[1];
  const client = path === undefined ? new Redis(url, options) : new Redis(path, options);
  // connect() rejects with "Connection is closed."; an event has the reason.
  let reason: Error | undefined;
  client.on("error", (error: Error) => (reason = error));
  const failure = await client.connect().catch((error: Error) => reason ?? error);
  if (!failure) return client;
  client.disconnect();
  throw new Error(`cannot connect to ${name}: ${failure.message}`, { cause: failure });
}
