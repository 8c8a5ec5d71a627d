import { randomUUID } from "node:crypto";
import type { Credentials } from "../../src/index.js";
import type { RedisServer } from "./redis-server.js";

/** Tokens as a cloud's identity service gives them; when one is revoked, the server ends what it opened. */
export class Tokens {
  /** Users made so far, the newest last. */
  readonly issued: string[] = [];
  readonly secrets: string[] = [];
  calls = 0;
  failure: Error | undefined;
  readonly #server: RedisServer;
  readonly #lifeMs: number;
  readonly #keep: number;

  /** Each is said to be good for `lifeMs` and is revoked once `keep` newer ones are there. */
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
