import type { Login } from "../config/options.js";
import { isReplyError, replyCode } from "../core/replies.js";
import { within } from "../core/waiting.js";
import { type ClientContext, connectFailed } from "./client-context.js";

/** The login of one connection: fetched before it connects, used by its handshake, and renewed by AUTH while it is open. */
export class ConnectionLogin {
  /** The login that the connection was opened with, or renewed to. */
  current: Login | undefined;
  readonly #client: ClientContext;
  /** A renewal waits for the end of a transaction or a blocking command, or until the connection accepts AUTH. */
  #isDue = false;

  constructor(client: ClientContext) {
    this.#client = client;
  }

  get isOutdated(): boolean {
    return this.current !== this.#client.options.logins?.latest;
  }

  /** Waits for a login newer than the version `refused`; at once without `redis.credentials`. */
  async fetch(refused: number, leftMs: number): Promise<void> {
    const { options, life } = this.#client;
    const { logins } = options;
    if (!logins) return;
    const missing = (): Error =>
      connectFailed(this.#client, new Error("redis.credentials gave no login in time", { cause: logins.failure }));
    await within(logins.newerThan(refused, life), Math.max(leftMs, 1), missing);
  }

  /** Hands the latest login to the next handshake. */
  take(): Login | undefined {
    const { options, redis } = this.#client;
    const login = options.logins?.latest;
    if (login) redis.logIn(login);
    return (this.current = login);
  }

  /** AUTH with the latest login, before the server ends the connection for its old one; now, or as soon as that is possible. */
  renew(): void {
    if (!this.isOutdated) return;
    const { options, redis, commandQueue, life } = this.#client;
    const { inTransaction, isMonitoring } = commandQueue.session;
    const acceptsNothing = isMonitoring || redis.mode === "subscriber"; // the latter with RESP2 only
    this.#isDue = inTransaction || acceptsNothing || commandQueue.isBlocked;
    if (this.#isDue) return;
    const { username = "default", password, version } = this.take()!;
    redis.own("auth", username, password).catch((error: unknown) => {
      if (!isReplyError(error)) return; // lost meanwhile: the next connection uses the latest login
      const { logins, logger, name } = options;
      logger.warn("new credentials were refused by an open connection", { name, code: replyCode(error) });
      logins!.newerThan(version, life).catch(() => {}); // a newer login leads here again
    });
  }

  /** Something was received: a renewal that waited may be possible now. */
  look(): void {
    if (this.#isDue) this.renew();
  }
}
