import type { RedisHandle } from "../commands/ioredis.js";
import { monotonic } from "../core/clock.js";

/** A service that passes outside input to `call()` must not be able to grow this table without end. */
const MAX_NAMES = 1_000;
/** The pause after a question that failed. */
const RETRY_MS = 10_000;

/** What the server says of commands that ioredis does not know, such as those of modules: which of them only read. */
export class UnknownCommands {
  readonly #getRedis: () => Promise<RedisHandle>;
  /** By name in lower case. A number: it counts as a write, and the server is asked again from this time on. */
  readonly #onlyRead = new Map<string, boolean | number>();

  constructor(getRedis: () => Promise<RedisHandle>) {
    this.#getRedis = getRedis;
  }

  /** False as long as the server has not answered, which is asked in the background. */
  onlyReads(name: string): boolean {
    const known = this.#onlyRead.get(name);
    if (typeof known === "boolean") return known;
    if (known === undefined ? this.#onlyRead.size < MAX_NAMES : monotonic() >= known) void this.#ask(name);
    return false;
  }

  /** Never rejects. */
  async #ask(name: string): Promise<void> {
    this.#onlyRead.set(name, Infinity);
    try {
      const redis = await this.#getRedis();
      const [told] = (await redis.call("COMMAND", "INFO", name)) as [
        readonly [string, number, Iterable<string>] | null,
      ];
      const flags = [...(told?.[2] ?? [])];
      this.#onlyRead.set(name, flags.includes("readonly"));
    } catch {
      this.#onlyRead.set(name, monotonic() + RETRY_MS);
    }
  }
}
