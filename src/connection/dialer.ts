import type { QueuedCommand } from "../commands/ioredis.js";
import { addressOf } from "../config/endpoint.js";
import type { Login, RetryConfig } from "../config/options.js";
import { AuthFailedError, ConfigInvalidError, ConnectFailedError, MaxclientsSuspectedError } from "../core/errors.js";
import { errorCode, quiet } from "../core/log.js";
import { isDenied } from "../core/failures.js";
import { helloFields, isAuthReply, isFull, isReplyError, isServed, replyCode } from "../core/replies.js";
import { connRetry, isRetryableError } from "../core/retry.js";
import { monotonic } from "../core/clock.js";
import { abortable, sleep, within } from "../core/waiting.js";
import type { PermitKind } from "../gate/shared-semaphore.js";
import { type ClientContext, connectFailed } from "./client-context.js";
import { FailoverMonitor } from "./failover-monitor.js";
import { ForeignError, foreignReason, lookAgain } from "./foreign.js";
import type { ConnectionLogin } from "./login.js";
import { Sentinels } from "./sentinels.js";

/** What the dialer tells its client. */
export interface DialingClient extends ClientContext {
  /** The server answers: what has to be sent before the connection counts as connected. */
  onServed(): Promise<void>;
  /** Asks for the server's run id. */
  identify(): Promise<void>;
  /** Called in the same turn in which the connection was found good, so that its close event is not missed. */
  onConnected(): void;
  onLost(): void;
  /** The sentinels name another master. */
  onMasterMoved(): void;
}

export type Limits = Pick<RetryConfig, "deadlineMs" | "attempts">;

/** The least time of an attempt to connect: with less, its failure would only say that it was late. */
const FAIR_ATTEMPT_MS = 250;

/** Connects a client: one attempt at a time, each with login, gate, handshake and first answer. Judges each failure. */
export class Dialer {
  /** The client was connected before: the server is a Redis, and the login was good once. */
  hasConnected = false;
  readonly #client: DialingClient;
  readonly #login: ConnectionLogin;
  /** Only with sentinels: they are asked anew at every attempt, so that a failover is followed. */
  readonly #failoverMonitor: FailoverMonitor | undefined;
  /** The login that the server refused at the last attempt. */
  #refused: Login | undefined;
  /** Where the last attempt led, or the name that the sentinels were asked for. */
  #address = "";

  constructor(client: DialingClient, login: ConnectionLogin) {
    this.#client = client;
    this.#login = login;
    const { gate, redis } = client.options;
    const sentinels = Sentinels.of(redis);
    if (!sentinels) return;
    this.#failoverMonitor = new FailoverMonitor({
      cells: gate.masterCells,
      sentinels,
      ms: redis.connectTimeoutMs,
      onMoved: () => client.onMasterMoved(),
    });
  }

  /** Repeats attempts within the limits. Rejects with the last attempt's error, or when the client is closed. */
  async connect(limits: Limits): Promise<void> {
    const { options, life: signal } = this.#client;
    const { retry, logger, name } = options;
    const deadline = monotonic() + limits.deadlineMs;
    let refusals = 0;
    const attempt = async (): Promise<void> => {
      try {
        await this.#attempt(deadline - monotonic());
      } catch (error) {
        // A rotation is over soon. A server that goes on refusing is asked less and less often.
        if (this.#isRotation(error))
          await sleep(Math.min(retry.baseDelayMs * ++refusals, retry.maxDelayMs), signal).catch(() => {});
        throw error;
      }
    };
    await connRetry("Redis", `connecting ${name}`, {
      ...retry,
      ...limits,
      logger: quiet(logger, limits.attempts > 1),
      signal,
      isRetryable: (error) => this.#isRotation(error) || isRetryableError(error),
    })(attempt)();
  }

  /** Ends the connection or an attempt to connect, after `life` was aborted; settles when nothing is open. */
  async close(): Promise<void> {
    await Promise.all([this.#client.redis.cut(), this.#failoverMonitor?.close()]);
  }

  /** Whether ioredis sends this command while it connects. */
  sendsItself(command: QueuedCommand): boolean {
    const { redis } = this.#client;
    return redis.status === "connect" && redis.isOfHandshake(command);
  }

  send(command: QueuedCommand): unknown {
    const { redis, commandQueue } = this.#client;
    const { reject } = command;
    command.reject = (error) => {
      // A caller that happens to send the same command as ioredis learns that it had no effect.
      Reflect.apply(reject, command, [isReplyError(error) ? error : commandQueue.errors.lost(command, error)]);
    };
    const written = redis.transmit(command);
    (written as Promise<unknown>).catch(() => {}); // ioredis does not handle it
    return written;
  }

  /** A login that was good once is refused: it is being changed, here or at the server. */
  #isRotation(error: unknown): boolean {
    return this.hasConnected && error instanceof AuthFailedError;
  }

  /** Ends within `leftMs`; after a failure nothing is left open. */
  async #attempt(leftMs: number): Promise<void> {
    const giveUpAt = monotonic() + leftMs;
    await this.#login.fetch(0, leftMs);
    try {
      await this.#dial(giveUpAt - monotonic(), true);
    } catch (error) {
      const refused = this.#refused;
      this.#refused = undefined;
      if (!refused) throw error;
      // The credentials were changed before they expired: once more with fresh ones.
      await this.#login.fetch(refused.version, giveUpAt - monotonic());
      await this.#dial(giveUpAt - monotonic());
    }
  }

  /** `mayRepeat`: refused credentials are not logged, because they are fetched anew and tried once more. */
  async #dial(leftMs: number, mayRepeat = false): Promise<void> {
    const client = this.#client;
    const { options, redis: handle, life } = client;
    const { gate, redis } = options;
    await handle.hangUp();
    const giveUpAt = monotonic() + leftMs;
    // Attempts begin in time; if none is left, a blocked loop has taken it.
    const entryMs = leftMs > 0 ? leftMs : FAIR_ATTEMPT_MS;
    const entry = await gate.enter(this.#permitKind, entryMs, life).catch((error: unknown) => {
      // The reason why all attempts wait is of more use than the fact that this one waited too long.
      throw client.lastFailure ?? connectFailed(client, error);
    });
    client.lastError = undefined;
    let gaveWay: Error | undefined;
    entry.onGiveWay = () => {
      gaveWay = connectFailed(client, new Error("it gave way, because its thread was blocked"));
      void handle.cut();
    };
    this.#login.take();
    const startedAt = monotonic();
    const openBy = startedAt + Math.min(redis.connectTimeoutMs, Math.max(giveUpAt - startedAt, FAIR_ATTEMPT_MS));
    try {
      await this.#openAny(openBy, () => gaveWay);
    } catch (error) {
      const failure = gaveWay ?? (error as Error);
      const isCalledOff = life.aborted || gaveWay !== undefined;
      // A shutdown, a wrong password or a missing permission says nothing about the server.
      if (isCalledOff || failure instanceof AuthFailedError || isDenied(failure)) entry.closed();
      else entry.failed();
      if (!isCalledOff && !(mayRepeat && this.#refused)) this.#logFailure(failure, startedAt);
      throw (client.lastFailure = failure);
    }
    entry.succeeded();
    const over = gate.outage.connected();
    if (over) options.logger.info(`connected to ${gate.server} again`, { address: this.#target, ...over });
    handle.stream.prependOnceListener("close", () => {
      entry.closed();
      this.#failoverMonitor?.stop();
      client.onLost();
    });
    this.#failoverMonitor?.start(handle.aimedAt);
    client.onConnected();
    this.hasConnected = true;
  }

  #logFailure(failure: Error, startedAt: number): void {
    const { gate, logger, name } = this.#client.options;
    const address = this.#address;
    const { cause } = failure as { cause?: { code?: string } };
    const code = (failure instanceof ConnectFailedError && cause?.code) || errorCode(failure);
    const numbers = gate.outage.failed(`${address} ${code}`, monotonic() - startedAt);
    if (numbers) logger.warn(`no connection to ${gate.server}`, { name, address, code, ...numbers });
  }

  /** Sentinels can name several addresses: each gets its share of the time, one socket at a time. */
  async #openAny(openBy: number, gaveWay: () => Error | undefined): Promise<void> {
    const { options, redis, life } = this.#client;
    this.#address = options.redis.sentinelName ?? "";
    const asked = this.#failoverMonitor?.candidates(openBy - monotonic(), life);
    const addresses = (await asked?.catch((error) => Promise.reject(this.#judge(error, false)))) ?? [undefined];
    const failures: Error[] = [];
    for (const [i, address] of addresses.entries()) {
      if (gaveWay() || (failures.length > 0 && life.aborted)) break;
      if (address) redis.aim(address);
      if (failures.length === 0) this.#address = this.#target; // the first failure is the one that is logged
      try {
        return await this.#openOne((openBy - monotonic()) / (addresses.length - i));
      } catch (failure) {
        failures.push(failure as Error);
      }
    }
    // A dead address must not hide a failure that no retry mends.
    throw failures.find((one) => one instanceof AuthFailedError) ?? failures[0];
  }

  async #openOne(ms: number): Promise<void> {
    const client = this.#client;
    let accepted = false;
    const onAccepted = (): void => void (accepted = true);
    client.redis.once("connect", onAccepted);
    client.lastError = undefined;
    const openBy = monotonic() + ms;
    try {
      await this.#open(Math.max(ms, 1));
      this.#refused = undefined;
    } catch (error) {
      await client.redis.cut();
      const failure = this.#judge(error, accepted);
      const word = accepted ? await this.#lookAgain(error, openBy) : undefined;
      throw word === undefined ? failure : connectFailed(client, new ForeignError(word));
    } finally {
      client.redis.removeListener("connect", onAccepted);
    }
  }

  async #open(ms: number): Promise<void> {
    const { redis, commandQueue, life } = this.#client;
    const timeout = (): Error => {
      const isInTlsHandshake = redis.options.tls && redis.status === "connecting" && !redis.stream.connecting;
      const what = isInTlsHandshake
        ? "no answer to the TLS handshake (does this port speak TLS?)"
        : "no connection and no answer";
      return Object.assign(new Error(`${what} within ${Math.round(ms)} ms`), { code: "ETIMEDOUT" });
    };
    const opening = redis
      .dial(commandQueue.session.db)
      .then(() => this.#introduce())
      .then(() => this.#client.onServed());
    await abortable(within(opening, ms, timeout), life);
    // Lost since it answered: its close event has passed, and nobody would notice.
    if (!redis.stream.writable) throw new Error("the connection was lost as soon as it was made");
  }

  /** One round trip that proves the handshake, learns whether the server serves, and names the connection. */
  async #introduce(): Promise<void> {
    const { options, redis, lastError } = this.#client;
    // The SELECT failed, and ioredis would go on with database 0.
    if (isReplyError(lastError)) throw lastError;
    const { name, logger } = options;
    const named = redis.own("client", "SETNAME", name).catch((error: unknown) => {
      if (!isReplyError(error)) throw error;
      if (isServed(error)) logger.warn("connection could not be named", { name, code: replyCode(error) });
    });
    const pinged = redis.own("ping").catch((error: unknown) => {
      // NOPERM and MISCONF refuse the PING, but show a server that answers this user.
      if (!isServed(error)) throw error;
    });
    await Promise.all([
      named,
      pinged,
      this.#failoverMonitor && this.#checkRole(),
      options.onIdentified && this.#client.identify(),
    ]);
  }

  /** Sentinels can be late: for a while they go on naming a demoted master. */
  async #checkRole(): Promise<void> {
    // Every user may send HELLO, unlike ROLE. A server before Redis 6 does not know it.
    const reply = await this.#client.redis.own("hello").catch((error: unknown) => {
      if (!isReplyError(error)) throw error;
    });
    const { role } = helloFields(reply);
    if (role !== undefined && role !== "master")
      throw Object.assign(new Error(`the sentinels lead to a ${role}`), { code: "NOT_MASTER" });
  }

  /**
   * What kind of server is there, if it is no Redis. The first attempt cannot always tell: a TLS port hangs up on plain text
   * without a word, as a full Redis does, and an HTTP server's answer is lost when we write to the closed connection. A server
   * that has served is not looked at: in an outage each probe would open three connections.
   */
  async #lookAgain(error: unknown, openBy: number): Promise<string | undefined> {
    const { lastError, options, redis, life } = this.#client;
    const isKnown = options.gate.outage.hasServed || isReplyError(lastError) || foreignReason(lastError) !== undefined;
    if (isKnown || !isClosedError(error)) return undefined;
    const halfOfWhatIsLeft = (openBy - monotonic()) / 2; // the next attempt needs time, too
    return lookAgain(redis.options, halfOfWhatIsLeft, life);
  }

  #judge(error: unknown, accepted: boolean): Error {
    if (error instanceof AuthFailedError || error instanceof ConfigInvalidError) return error; // from the sentinels
    const client = this.#client;
    const { name, redis } = client.options;
    // ioredis says "Connection is closed."; the reason came as an error event.
    const cause = isReplyError(error) ? error : (client.lastError ?? error);
    const foreign = foreignReason(cause);
    if (foreign !== undefined) return connectFailed(client, new ForeignError(foreign, { cause }));
    let how = "closed it without a word: has it reached its maxclients, is it just ending, or is it another server?";
    if (isReplyError(cause)) {
      const code = replyCode(cause);
      if (isAuthReply(cause)) return this.#refusedLogin(code);
      if (!isFull(cause))
        return connectFailed(client, Object.assign(new Error(`the server answered ${code}`), { code }));
      how = "turned it away: it has reached its maxclients";
    } else {
      if (!accepted || !isClosedError(error)) return connectFailed(client, cause);
      if (redis.tls !== false) {
        // A full server does not finish the TLS handshake. The alert that names the certificate is often lost.
        const why =
          "closed after the TLS handshake: does the server want a client's certificate (redis.tls.cert and key)?";
        return connectFailed(client, new Error(why, { cause }));
      }
    }
    const message = `Redis accepted the connection for ${name} and ${how}`;
    return new MaxclientsSuspectedError(message, { outcome: "not-sent", cause });
  }

  #refusedLogin(reply: string): AuthFailedError {
    this.#refused = this.#login.current;
    const source = this.#refused ? "what redis.credentials gives" : "redis.username and redis.password";
    const { name } = this.#client.options;
    return new AuthFailedError(`Redis refused the credentials of ${name} (${reply}): check ${source}`, { reply });
  }

  get #target(): string {
    const { options, redis } = this.#client;
    return options.redis.path ?? addressOf(redis.aimedAt);
  }

  /** The connections that threads and the primary live by go before leases and further connections. */
  get #permitKind(): PermitKind {
    const { role, isFurther } = this.#client.options;
    return role === "dedicated" || role === "sync" || isFurther?.() ? "spare" : "main";
  }
}

function isClosedError(error: unknown): boolean {
  return error instanceof Error && error.message === "Connection is closed.";
}
