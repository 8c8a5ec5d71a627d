import type { RedisHandle } from "../commands/ioredis.js";

/** A service that passes outside input to `call()` must not be able to grow this table without end. */
const MAX_NAMES = 1_000;

/** What the server says of commands that ioredis does not know, such as those of modules: which of them only read. */
export class UnknownCommands {
  readonly #getRedis: () => Promise<RedisHandle>;
  /** By name in lower case. False also while the server has not answered. */
  readonly #onlyRead = new Map<string, boolean>();

  constructor(getRedis: () => Promise<RedisHandle>) {
    this.#getRedis = getRedis;
  }

  /** Asks in the background at the first call for a name. */
  onlyReads(name: string): boolean {
    const known = this.#onlyRead.get(name);
    if (known !== undefined || this.#onlyRead.size >= MAX_NAMES) return known ?? false;
    this.#onlyRead.set(name, false);
    this.#ask(name).catch(() => {}); // it counts as a write
    return false;
  }

  async #ask(name: string): Promise<void> {
    const redis = await this.#getRedis();
    const [told] = (await redis.call("COMMAND", "INFO", name)) as [readonly [string, number, Iterable<string>] | null];
    const flags = [...(told?.[2] ?? [])];
    this.#onlyRead.set(name, flags.includes("readonly"));
  }
}
