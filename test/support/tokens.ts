import { randomUUID } from "node:crypto";
import type { Credentials } from "../../src/index.js";
import type { RedisServer } from "./redis-server.js";

/** Tokens like those of a cloud's identity service. When one is revoked, the server ends its connections. */
export class Tokens {
  /** Users created so far, the newest last. */
  readonly issued: string[] = [];
  readonly secrets: string[] = [];
  calls = 0;
  failure: Error | undefined;
  readonly #server: RedisServer;
  readonly #lifeMs: number;
  readonly #keep: number;

  /** Each is announced as valid for `lifeMs`, and is revoked when `keep` newer ones exist. */
  constructor(server: RedisServer, { lifeMs = 3_600_000, keep = 3 } = {}) {
    this.#server = server;
    this.#lifeMs = lifeMs;
    this.#keep = keep;
  }

  get newest(): string {
    return this.issued.at(-1)!;
  }

  readonly provider = async (): Promise<Credentials> => {
    this.calls++;
    if (this.failure) throw this.failure;
    const username = `token-${randomUUID()}`;
    const password = randomUUID();
    await this.#server.admin.call("ACL", "SETUSER", username, "on", `>${password}`, "~*", "&*", "+@all");
    this.issued.push(username);
    this.secrets.push(password);
    const old = this.issued.at(-1 - this.#keep);
    if (old) await this.revoke(old);
    return { username, password, expiresAt: Date.now() + this.#lifeMs };
  };

  async revoke(username: string): Promise<void> {
    await this.#server.admin.call("ACL", "DELUSER", username);
  }
}
