import type { Handle } from "../commands/handle.js";
import { addressOf } from "../config/endpoint.js";
import type { Login, RedisConfig } from "../config/options.js";
import { AuthFailedError, ConfigInvalidError, ConnectFailedError, MaxclientsSuspectedError } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import type { ClientRole } from "../core/names.js";
import { isDenied } from "../core/failures.js";
import { helloFields, isAuthReply, isFull, isReplyError, isServed, replyCode } from "../core/replies.js";
import { monotonic } from "../core/clock.js";
import { abortable, within } from "../core/waiting.js";
import type { ConnectAttempt, ServerGate } from "../gate/connect-gate.js";
import type { PermitKind } from "../gate/shared-semaphore.js";
import { FailoverMonitor } from "./failover-monitor.js";
import { ForeignError, foreignWord, lookAgain } from "./foreign.js";
import type { Logins } from "./logins.js";
import { Sentinels } from "./sentinels.js";

export interface DialerOptions {
  readonly redis: RedisConfig;
  /** The connection's name on the server, and in errors and logs. */
  readonly name: string;
  readonly role: ClientRole;
  readonly logger: Logger;
  /** Of this thread; every socket passes it. */
  readonly gate: ServerGate;
  /** Takes the place of the configured username and password. */
  readonly logins?: Logins | undefined;
  /** Whether its owner has a connection already, to another node of the Cluster: it then takes its turn among the leases. */
  readonly isFurther?: () => boolean;
  /** The database that the next connection is for. */
  readonly db: () => number;
  /** The server answers: what is said before the connection is told to be up. */
  readonly onServed: () => Promise<void>;
  /** In the very turn in which the connection was found good: its close is not missed. */
  readonly onConnected: (entry: ConnectAttempt) => void;
}

/** What an attempt to connect gets at least: with less, its failure would only say that it was late. */
const FAIR_ATTEMPT_MS = 250;

/** One attempt to connect at a time: login, gate, handshake and first answer, and the verdict on what went wrong. */
export class Dialer {
  /** What ioredis last said of the socket. */
  lastError: Error | undefined;
  /** Why the last attempt to connect failed. */
  lastFailure: Error | undefined;
  readonly #handle: Handle;
  readonly #options: DialerOptions;
  /** Ends every wait. */
  readonly #life: AbortSignal;
  /** With sentinels: asked anew at every attempt, so that a failover is followed. */
  #failoverMonitor: FailoverMonitor | undefined;
  /** What the connection was opened with, or renewed to. */
  #login: Login | undefined;
  /** Which the server refused at the last attempt. */
  #refused: Login | undefined;
  /** Where the attempt led, or whom it asked. */
  #address = "";
  #wasServed = false;

  constructor(handle: Handle, options: DialerOptions, life: AbortSignal) {
    this.#handle = handle;
    this.#options = options;
    this.#life = life;
  }

  /** Within `leftMs`; after a failure nothing is left open. */
  async attempt(leftMs: number): Promise<void> {
    const giveUpAt = monotonic() + leftMs;
    await this.#loginArrives(0, leftMs);
    try {
      await this.#dial(giveUpAt - monotonic(), true);
    } catch (error) {
      const refused = this.#refused;
      this.#refused = undefined;
      if (!refused) throw error;
      // Changed before they expired: once more with fresh ones.
      await this.#loginArrives(refused.version, giveUpAt - monotonic());
      await this.#dial(giveUpAt - monotonic());
    }
  }

  /** The latest, for the next handshake or for an AUTH. */
  takeLogin(): Login | undefined {
    const login = this.#options.logins?.latest;
    if (login) this.#handle.logIn(login);
    return (this.#login = login);
  }

  get hasOldLogin(): boolean {
    return this.#login !== this.#options.logins?.latest;
  }

  /** With sentinels: hears when they name another master. */
  monitorFailover(onMoved: () => void): FailoverMonitor | undefined {
    const { gate, redis } = this.#options;
    const sentinels = Sentinels.of(redis);
    if (!sentinels) return undefined;
    const watching = { cells: gate.masterCells, sentinels, ms: redis.connectTimeoutMs, onMoved };
    return (this.#failoverMonitor = new FailoverMonitor(watching));
  }

  /** Settles when the socket is gone. */
  async destroy(): Promise<void> {
    await this.#handle.cut();
  }

  connectFailed(cause: unknown = this.lastError): ConnectFailedError {
    const { host, port, path, sentinelName } = this.#options.redis;
    const where = path ?? sentinelName ?? `${host}:${port}`;
    const reason = cause instanceof Error ? `: ${cause.message || (cause as NodeJS.ErrnoException).code}` : "";
    return new ConnectFailedError(`no connection for ${this.#options.name} to ${where}${reason}`, {
      outcome: "not-sent",
      cause,
    });
  }

  async #loginArrives(refused: number, leftMs: number): Promise<void> {
    const { logins } = this.#options;
    if (!logins) return;
    const missing = (): Error =>
      this.connectFailed(new Error("redis.credentials gave none in time", { cause: logins.failure }));
    await within(logins.newerThan(refused, this.#life), Math.max(leftMs, 1), missing);
  }

  /** `mayRepeat`: credentials that are refused are fetched afresh, and nobody needs to know. */
  async #dial(leftMs: number, mayRepeat = false): Promise<void> {
    await this.#handle.hangUp();
    const { gate, redis } = this.#options;
    const giveUpAt = monotonic() + leftMs;
    // Attempts are begun in time; one that has none left was robbed of it by a blocked loop.
    const entryMs = leftMs > 0 ? leftMs : FAIR_ATTEMPT_MS;
    const entry = await gate.enter(this.#permitKind, entryMs, this.#life).catch((error: unknown) => {
      // Why everybody waits is of more use than that this one did.
      throw this.lastFailure ?? this.connectFailed(error);
    });
    this.lastError = undefined;
    let gaveWay: Error | undefined;
    entry.onGiveWay = () => {
      gaveWay = this.connectFailed(new Error("it gave way, because its thread was blocked"));
      void this.#handle.cut();
    };
    this.takeLogin();
    const ms = Math.min(redis.connectTimeoutMs, Math.max(giveUpAt - monotonic(), FAIR_ATTEMPT_MS));
    const startedAt = monotonic();
    const openBy = startedAt + ms;
    try {
      await this.#openAny(openBy, () => gaveWay);
    } catch (error) {
      const failure = gaveWay ?? (error as Error);
      // A shutdown, a wrong password or a missing permission says nothing about the server.
      if (this.#life.aborted || gaveWay || failure instanceof AuthFailedError || isDenied(failure)) entry.closed();
      else entry.failed();
      if (!(this.#life.aborted || gaveWay || (mayRepeat && this.#refused))) this.#tellFailure(failure, startedAt);
      throw (this.lastFailure = failure);
    }
    entry.succeeded();
    const over = gate.outage.end();
    if (over) this.#options.logger.info(`connected to ${gate.server} again`, { address: this.#aim, ...over });
    this.#options.onConnected(entry);
  }

  #tellFailure(failure: Error, startedAt: number): void {
    const { gate, logger, name } = this.#options;
    const address = this.#address;
    const { cause } = failure as { cause?: { code?: string } };
    const code = (failure instanceof ConnectFailedError && cause?.code) || errorCode(failure);
    const numbers = gate.outage.failed(`${address} ${code}`, monotonic() - startedAt);
    if (numbers) logger.warn(`no connection to ${gate.server}`, { name, address, code, ...numbers });
  }

  /** With sentinels there can be several addresses: each gets its share of the time, one socket at a time. */
  async #openAny(openBy: number, gaveWay: () => Error | undefined): Promise<void> {
    this.#address = this.#options.redis.sentinelName ?? "";
    const asked = this.#failoverMonitor?.candidates(openBy - monotonic(), this.#life);
    const addresses = (await asked?.catch((error) => Promise.reject(this.#judgeAttempt(error, false)))) ?? [undefined];
    const failures: Error[] = [];
    for (const [i, address] of addresses.entries()) {
      if (gaveWay() || (failures.length > 0 && this.#life.aborted)) break;
      if (address) this.#handle.aim(address);
      if (failures.length === 0) this.#address = this.#aim; // the failure that is told is the first one's
      try {
        return await this.#openOne((openBy - monotonic()) / (addresses.length - i));
      } catch (failure) {
        failures.push(failure as Error);
      }
    }
    // What no retry mends is not hidden behind an address that is dead.
    throw failures.find((one) => one instanceof AuthFailedError) ?? failures[0];
  }

  async #openOne(ms: number): Promise<void> {
    let accepted = false;
    const onAccepted = (): void => void (accepted = true);
    this.#handle.once("connect", onAccepted);
    this.lastError = undefined;
    const openBy = monotonic() + ms;
    try {
      await this.#open(Math.max(ms, 1));
      this.#refused = undefined;
      this.#wasServed = true;
    } catch (error) {
      await this.destroy();
      const failure = this.#judgeAttempt(error, accepted);
      const word = accepted ? await this.#lookAgain(error, openBy) : undefined;
      throw word === undefined ? failure : this.connectFailed(new ForeignError(word));
    } finally {
      this.#handle.removeListener("connect", onAccepted);
    }
  }

  async #open(ms: number): Promise<void> {
    const timeout = (): Error => {
      const { status, stream, options } = this.#handle;
      const isGreeted = options.tls && status === "connecting" && !stream.connecting;
      const what = isGreeted
        ? "no answer to the TLS handshake (does this port speak TLS?)"
        : "no connection and no answer";
      return Object.assign(new Error(`${what} within ${Math.round(ms)} ms`), { code: "ETIMEDOUT" });
    };
    const opening = this.#handle
      .dial(this.#options.db())
      .then(() => this.#introduce())
      .then(() => this.#options.onServed());
    await abortable(within(opening, ms, timeout), this.#life);
    // Lost since it answered: its close event has passed, and nobody would hear of it again.
    if (!this.#handle.stream.writable) throw new Error("the connection was lost as soon as it was made");
  }

  /** One round trip that proves the handshake, learns whether the server serves, and names the connection. */
  async #introduce(): Promise<void> {
    // Its SELECT failed, and ioredis would go on with database 0.
    if (isReplyError(this.lastError)) throw this.lastError;
    const { name, logger } = this.#options;
    const named = this.#handle.own("client", "SETNAME", name).catch((error: unknown) => {
      if (!isReplyError(error)) throw error;
      if (isServed(error)) logger.warn("connection could not be named", { name, code: replyCode(error) });
    });
    const pinged = this.#handle.own("ping").catch((error: unknown) => {
      // NOPERM, MISCONF: refused, but by a server that answers this user.
      if (!isServed(error)) throw error;
    });
    await Promise.all([named, pinged, this.#failoverMonitor && this.#checkRole()]);
  }

  /** Sentinels can be behind: a master that was demoted, or has come back, is still named for a while. */
  async #checkRole(): Promise<void> {
    // Allowed to every user, unlike ROLE. A server before Redis 6 does not know it.
    const reply = await this.#handle.own("hello").catch((error: unknown) => {
      if (!isReplyError(error)) throw error;
    });
    const { role } = helloFields(reply);
    if (role !== undefined && role !== "master")
      throw Object.assign(new Error(`the sentinels lead to a ${role}`), { code: "NOT_MASTER" });
  }

  /**
   * What is there, if it is no Redis. A port for TLS hangs up on plain text without a word, as a full server does, and the answer
   * of an HTTP server is lost where a further write finds the connection closed. A server that has served once is a Redis.
   */
  async #lookAgain(error: unknown, openBy: number): Promise<string | undefined> {
    const heard = this.lastError;
    if (this.#wasServed || !isClosedError(error) || isReplyError(heard) || foreignWord(heard) !== undefined)
      return undefined;
    const halfOfWhatIsLeft = (openBy - monotonic()) / 2; // the next attempt needs time, too
    return lookAgain(this.#handle.options, halfOfWhatIsLeft, this.#life);
  }

  #judgeAttempt(error: unknown, accepted: boolean): Error {
    if (error instanceof AuthFailedError || error instanceof ConfigInvalidError) return error; // the sentinels'
    // ioredis says "Connection is closed."; why it closed came as an error event.
    const cause = isReplyError(error) ? error : (this.lastError ?? error);
    const foreign = foreignWord(cause);
    if (foreign !== undefined) return this.connectFailed(new ForeignError(foreign, { cause }));
    if (isReplyError(cause) && !isFull(cause)) {
      const code = replyCode(cause);
      if (!isAuthReply(cause))
        return this.connectFailed(Object.assign(new Error(`the server answered ${code}`), { code }));
      this.#refused = this.#login;
      const source = this.#login ? "what redis.credentials gives" : "redis.username and redis.password";
      return new AuthFailedError(`Redis refused the credentials of ${this.#options.name} (${code}): check ${source}`, {
        reply: code,
      });
    }
    if (!isReplyError(cause) && (!accepted || !isClosedError(error))) return this.connectFailed(cause);
    if (!isReplyError(cause) && this.#options.redis.tls !== false) {
      // One that is full does not get as far as that; its alert is often lost with the connection.
      const why =
        "closed after the TLS handshake: does the server want a client's certificate (redis.tls.cert and key)?";
      return this.connectFailed(new Error(why, { cause }));
    }
    const how = isReplyError(cause)
      ? "turned it away: it has reached its maxclients"
      : "closed it without a word: has it reached its maxclients, or is it another server?";
    return new MaxclientsSuspectedError(`Redis accepted the connection for ${this.#options.name} and ${how}`, {
      outcome: "not-sent",
      cause,
    });
  }

  get #aim(): string {
    return this.#options.redis.path ?? addressOf(this.#handle.aimedAt);
  }

  /** What threads and primary live by goes before what tasks lease, or open beside it. */
  get #permitKind(): PermitKind {
    const { role, isFurther } = this.#options;
    return role === "dedicated" || role === "sync" || isFurther?.() ? "spare" : "main";
  }
}

function isClosedError(error: unknown): boolean {
  return error instanceof Error && error.message === "Connection is closed.";
}
