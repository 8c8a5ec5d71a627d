import type { ListedClient, RedisServer } from "./redis-server.js";

/** The server's view of one connection, and of the run's channels and journal. */
export interface View {
  /** Undefined without the connection. */
  readonly client: ListedClient | undefined;
  readonly channels: readonly string[];
  readonly shardChannels: readonly string[];
  /** Tokens in their order, each with its database. */
  readonly journal: readonly string[];
}

const IN_EACH = "for db = 0, 2 do redis.call('select', db)";
const PREPARE = `${IN_EACH} redis.call('set', KEYS[1], 'db ' .. db) end`;
const FEED = `${IN_EACH} redis.call('rpush', KEYS[1], ARGV[1]) redis.call('expire', KEYS[1], 30) end`;
const TOUCH = "redis.call('select', ARGV[1]) redis.call('set', KEYS[1], 1)";
/** Reads and empties the journal. */
const READ_JOURNAL = `
local all = {}
${IN_EACH}
  for _, token in ipairs(redis.call('lrange', KEYS[1], 0, -1)) do table.insert(all, db .. ' ' .. token) end
  redis.call('del', KEYS[1])
end
return all`;
const CLEAR = `
${IN_EACH}
  for _, key in ipairs(redis.call('keys', ARGV[1])) do redis.call('del', key) end
end`;

const FEED_AFTER_MS = 2;

/** Other clients of the same server: they observe, and interfere with what the clients of a run use. */
export class Others {
  readonly #server: RedisServer;
  readonly #run: string;
  #nestingAborts = false;

  constructor(server: RedisServer, run: string) {
    this.#server = server;
    this.#run = run;
  }

  /** See `Rules`; set when it is prepared. */
  get nestingAborts(): boolean {
    return this.#nestingAborts;
  }

  /** The keys that `read` reads, and at which `fail` fails. */
  async prepare(): Promise<void> {
    const [watch] = (await this.#server.admin.call("COMMAND", "INFO", "watch")) as [[string, number, string[]]];
    this.#nestingAborts = watch[2].includes("no_multi");
    await this.#eval(PREPARE, "where");
  }

  async clear(): Promise<void> {
    await this.#server.admin.eval(CLEAR, 0, `${this.#run}:*`);
  }

  /** Writes a key that may be watched. */
  async touch(n: number, db: number): Promise<void> {
    await this.#eval(TOUCH, `watched:${n % 2}`, db);
  }

  /** Pushes the token that a BLPOP waits for, in whatever database. */
  feed(token: string): void {
    setTimeout(() => void this.#eval(FEED, `queue:${token}`, token), FEED_AFTER_MS);
  }

  async flushScripts(): Promise<void> {
    await this.#server.admin.script("FLUSH");
  }

  async kill(address: string): Promise<void> {
    await this.#server.admin.client("KILL", "ADDR", address).catch(() => {}); // it is gone already
  }

  /** Publishes to a channel, and to the sharded one. */
  async publish(channel: string, shardChannel: string, text: string): Promise<void> {
    await Promise.all([this.#server.admin.publish(channel, text), this.#server.admin.spublish(shardChannel, text)]);
  }

  /** Resolves when the server has read all that was written to any socket so far. */
  async pause(): Promise<void> {
    for (let i = 0; i < 3; i++) await this.#server.admin.ping();
  }

  async look(role: string, address: string | undefined): Promise<View> {
    const { admin } = this.#server;
    const [clients, channels, shardChannels, journal] = await Promise.all([
      this.#server.clients(),
      admin.pubsub("CHANNELS", `${this.#run}:*`),
      admin.call("PUBSUB", "SHARDCHANNELS", `${this.#run}:*`),
      this.#eval(READ_JOURNAL, `journal:${role}`),
    ]);
    const client = clients.find(({ addr }) => addr === address);
    const lists = [channels, shardChannels, journal] as [string[], string[], string[]];
    return { client, channels: lists[0], shardChannels: lists[1], journal: lists[2] };
  }

  #eval(script: string, key: string, ...args: (string | number)[]): Promise<unknown> {
    return this.#server.admin.eval(script, 1, `${this.#run}:${key}`, ...args);
  }
}
