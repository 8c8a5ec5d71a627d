import { markAsUntransferable } from "node:worker_threads";
import type { AskedChannel, OnResubscribed } from "../commands/asked-channels.js";
import { CommandQueue } from "../commands/command-queue.js";
import { Handle, type HandleOwner } from "../commands/handle.js";
import type { QueuedCommand } from "../commands/ioredis.js";
import type { KeyPositions } from "../commands/key-positions.js";
import { type Outgoing, PipedCommands, rejectOutgoing } from "../commands/pipelines.js";
import type { RetryConfig } from "../config/options.js";
import { AuthFailedError } from "../core/errors.js";
import { quiet } from "../core/log.js";
import { classifyReply, replyCode } from "../core/replies.js";
import { connRetry, isRetryableError } from "../core/retry.js";
import { monotonic } from "../core/clock.js";
import { abortable, sleep, waitAtMost, within } from "../core/waiting.js";
import type { ConnectAttempt } from "../gate/connect-gate.js";
import { type ConnectionState, StateMachine } from "./connection-state.js";
import { Dialer, type DialerOptions } from "./dialer.js";
import type { FailoverMonitor } from "./failover-monitor.js";
import { GracefulReconnect } from "./graceful-reconnect.js";
import { Handshake } from "./handshake.js";
import { IdleCheck } from "./idle-check.js";
import { LoginRenewal } from "./login-renewal.js";
import { Probe } from "./probe.js";
import { Resubscription } from "./resubscription.js";
import { SessionReset } from "./session-reset.js";

export interface ClientOptions extends Omit<DialerOptions, "onServed" | "onConnected" | "db"> {
  readonly retry: RetryConfig;
  readonly onState?: (state: ConnectionState, previous: ConnectionState) => void;
  readonly onReconnected?: () => void;
  readonly onResubscribed?: OnResubscribed | undefined;
  /** Of a Cluster's node: its subscriptions come back wherever the Cluster's client wants them. Default false. */
  readonly isNode?: boolean;
  /** Finds the keys that ioredis does not: who has a `keyPrefix` needs it. */
  readonly KeyPositions?: typeof KeyPositions | undefined;
  /** A connection silent for longer is asked for a PING before it is written to. Default: never. */
  readonly idleCheckMs?: number;
}

/**
 * One connection and its life: the handle stays, sockets come and go under it. Nobody else connects, reconnects or
 * ends it, and every command it was given settles.
 */
export class Client implements HandleOwner {
  readonly redis: Handle;
  readonly #options: ClientOptions;
  readonly #dialer: Dialer;
  readonly #commandQueue: CommandQueue;
  readonly #probe: Probe;
  readonly #idleCheck: IdleCheck;
  readonly #gracefulReconnect: GracefulReconnect;
  readonly #failoverMonitor: FailoverMonitor | undefined;
  readonly #life = new AbortController();
  readonly #machine: StateMachine;
  /** What the machine says, at hand for each command. */
  #isConnected = false;
  readonly #sessionReset: SessionReset;
  readonly #handshake: Handshake;
  readonly #resubscription: Resubscription;
  readonly #loginRenewal: LoginRenewal;
  readonly #keys: KeyPositions | undefined;
  #connecting: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #isReconnect = false;
  readonly #unlisten: (() => void) | undefined;

  constructor(options: ClientOptions) {
    const { redis, name, role } = options;
    this.#options = options;
    this.redis = new Handle(redis, this);
    const dialing = {
      ...options,
      db: () => this.#commandQueue.session.db,
      onServed: async () => (options.isNode ? undefined : this.#resubscription.restore()),
      onConnected: (entry: ConnectAttempt) => this.#connected(entry),
    };
    this.#dialer = new Dialer(this.redis, dialing, this.#life.signal);
    this.#machine = new StateMachine({ ...options, lastError: () => this.#dialer.lastError });
    this.#commandQueue = new CommandQueue(this.redis, {
      redis,
      name,
      role,
      onTimeout: () => this.#probe.suspect(),
      receivedAt: () => this.#probe.receivedAt,
      onOutOfStep: (why) => this.#outOfStep(why),
      whyAway: () => (this.isAlive() ? undefined : this.#absence?.why),
    });
    this.#probe = new Probe(this.redis, {
      commandQueue: this.#commandQueue,
      commandTimeoutMs: redis.commandTimeoutMs,
      heartbeatMs: redis.heartbeatMs,
      isAlive: () => this.isAlive(),
      onTimeout: () => this.#dialer.connectFailed(),
    });
    this.#idleCheck = new IdleCheck({
      isInDoubt: () => this.#probe.isQuiet && !this.isFresh(options.idleCheckMs ?? Infinity),
      ask: () => this.#probe.ping(redis.commandTimeoutMs / 2), // what is held meanwhile keeps the other half
      onAnswer: () => {
        if (!this.#gracefulReconnect.isPending) this.#commandQueue.release();
      },
    });
    this.#gracefulReconnect = new GracefulReconnect({
      patienceMs: redis.commandTimeoutMs / 2, // what is held meanwhile keeps the other half
      isIdle: () => !this.#commandQueue.isAwaited,
      replace: () => this.redis.stream.destroy(),
      keep: () => this.#commandQueue.release(),
    });
    this.#failoverMonitor = this.#dialer.monitorFailover(() => this.#moved());
    this.redis.on("error", (error: Error) => {
      this.#dialer.lastError = error;
      if (error.message.startsWith(STRAY_REPLY)) this.#commandQueue.fallOutOfStep("a reply came that nobody waits for");
    });
    const about = { logins: undefined, ...options, commandQueue: this.#commandQueue };
    this.#handshake = new Handshake(this.redis, about);
    this.#resubscription = new Resubscription(this.redis, { ...about, life: this.#life.signal });
    this.#loginRenewal = new LoginRenewal(this.redis, { ...about, dialer: this.#dialer, life: this.#life.signal });
    this.#sessionReset = new SessionReset(this.redis, {
      session: this.#commandQueue.session,
      repairMs: redis.commandTimeoutMs,
      onTimeout: () => this.#dialer.connectFailed(),
      flush: () => this.#commandQueue.flush(),
    });
    this.#keys =
      options.KeyPositions &&
      new options.KeyPositions({
        redis,
        errors: this.#commandQueue.errors,
        ask: (command, ...args) => this.askAbout(command, ...args),
        send: (command) => this.#send(command),
        onNotSent: (commands) => this.#commandQueue.session.notSent(commands),
      });
    // Who holds a dedicated one is not to find an AUTH between two commands: see renewLogin.
    if (role !== "dedicated") this.#unlisten = options.logins?.listen(() => this.renewLogin());
  }

  get state(): ConnectionState {
    return this.#machine.state;
  }

  /** Why the last attempt to connect failed. */
  get lastFailure(): Error | undefined {
    return this.#dialer.lastFailure;
  }

  /** None is asked for again, which the server has refused. */
  get areSubscriptionsBack(): boolean {
    return this.#resubscription.isComplete;
  }

  get name(): string {
    return this.#options.name;
  }

  /**
   * Connected, or an error by the retry deadline; concurrent callers share one attempt. An abort frees its caller,
   * the attempt goes on for the others.
   * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED, REDTHREAD_NOT_SENT (closed), `signal.reason`
   */
  async connect(signal?: AbortSignal): Promise<void> {
    const { underWay } = this.#idleCheck;
    if (underWay) await abortable(underWay, signal);
    if (this.isAlive()) return;
    if (this.#life.signal.aborted) throw this.#commandQueue.errors.closed();
    const { retry } = this.#options;
    if (this.state === "disconnected") return abortable(this.#startConnecting(retry), signal);
    // After a loss (its close event may be still to come) the attempts go on for as long as it takes; this caller's
    // patience is its own.
    const giveUp = (): Error => this.#dialer.lastFailure ?? this.#dialer.connectFailed();
    await within(abortable(this.#startConnecting(FOR_EVER), signal), retry.deadlineMs, giveUp);
  }

  /** Connects in the background, for as long as it takes. */
  seek(): void {
    if (this.state === "disconnected") void this.#startConnecting(FOR_EVER);
  }

  /** The free look: no system call, no promise. */
  isAlive(): boolean {
    return this.#isConnected && this.redis.stream.writable;
  }

  /** Nobody waits for anything here, and it would be as good when opened anew. */
  get isIdle(): boolean {
    return this.isAlive() && this.redis.commandQueue.length === 0 && this.#commandQueue.session.clean;
  }

  /** As `Handle.subscribeAgain`, to what was subscribed to on another connection. */
  subscribeAgain(asked: AskedChannel, onStands: () => void): Promise<void> {
    this.#commandQueue.session.taint();
    return this.redis.subscribeAgain(asked, onStands);
  }

  /** Alive, and heard from within `idleMs`: no need to ask for a PING. */
  isFresh(idleMs: number, now: number = monotonic()): boolean {
    return this.isAlive() && this.#probe.hasReceivedWithin(idleMs, now);
  }

  /**
   * Whether the peer answers a PING, or sends anything else, by the command timeout; concurrent callers share one. A
   * connection that fails (half-open, frozen) is destroyed, and so replaced.
   */
  check(): Promise<boolean> {
    return this.#probe.check();
  }

  /**
   * Fit for the next holder? Repairs what can be repaired in one round trip and takes off the holder's listeners. With
   * `isAwaited` there is a next holder already.
   */
  reset(isAwaited = false): boolean | Promise<boolean> {
    if (!this.isAlive() || this.#dialer.hasOldLogin || !this.#sessionReset.isPossible || this.#keys?.isBusy)
      return false;
    return this.#sessionReset.begin(isAwaited);
  }

  /**
   * Answers what was written, says QUIT, and is gone after `ms` at the latest; never rejects. Nothing is connected
   * in order to be closed.
   */
  async close(ms: number): Promise<void> {
    if (!this.#closing) return (this.#closing = this.#close(ms));
    // Who has less time left than the first caller had does not wait for that one's QUIT.
    if (!(await waitAtMost(ms, this.#closing))) this.redis.stream?.destroy();
    return this.#closing;
  }

  /**
   * Its holder has given up: a blocking command ends with the connection, before it takes an item that nobody wants. Gives
   * whether there was one.
   */
  callOff(reason: unknown): boolean {
    if (!this.#commandQueue.isBlocking) return false;
    this.#dialer.lastError = reason as Error;
    void this.close(0);
    return true;
  }

  /**
   * COMMAND with these arguments, on its own connection. Inside a MULTI it would become a part of it: refused then, in the
   * name of the command that it is about.
   */
  async askAbout(command: QueuedCommand, ...args: (string | Buffer)[]): Promise<unknown> {
    const { whenDown, commandTimeoutMs } = this.#options.redis;
    const absence = this.isAlive() ? undefined : this.#absence;
    if (absence && whenDown === "fail") throw absence.why;
    await this.connect(this.#life.signal);
    const refused = this.inTransaction
      ? this.#commandQueue.errors.refused(command, IN_MULTI)
      : this.refuse([command], 0);
    if (refused) throw refused;
    return await within(this.redis.ownBytes("command", ...args), commandTimeoutMs, () => {
      this.#probe.suspect();
      return this.#dialer.connectFailed();
    });
  }

  get inTransaction(): boolean {
    return this.#commandQueue.session.inTransaction;
  }

  /** Undefined if it has never been open: then it is not away, it is only now wanted. */
  get #absence(): { readonly why: unknown } | undefined {
    const why = this.#options.gate.explain() ?? this.#dialer.lastFailure ?? this.#dialer.lastError;
    return !this.#isReconnect && why === undefined ? undefined : { why };
  }

  /** AUTH with the latest login: at once, or when what stands against it is over. */
  renewLogin(): void {
    if (this.isAlive()) this.#loginRenewal.renew(); // an attempt to connect takes the latest by itself
  }

  // The owner of the handle

  send(outgoing: Outgoing): unknown {
    // Also while QUIT is under way: what is written behind it never runs.
    if (this.#closing) return rejectOutgoing(outgoing, () => this.#commandQueue.errors.closed());
    return this.#keys && this.#isDelayed(outgoing, this.#keys) ? outgoing.promise : this.#send(outgoing);
  }

  delay<T>(pipeline: readonly QueuedCommand[], run: () => Promise<T>): Promise<T> | undefined {
    return this.#closing ? undefined : this.#keys?.delay(pipeline, run);
  }

  /** What ioredis says while it connects does not wait: what waits needs the connection. Pipelines have waited. */
  #isDelayed(outgoing: Outgoing, keys: KeyPositions): outgoing is QueuedCommand {
    return !(outgoing instanceof PipedCommands || this.#belongsToHandshake(outgoing)) && keys.delays(outgoing);
  }

  #send(outgoing: Outgoing): unknown {
    if (this.isAlive() && !this.#gracefulReconnect.isPending) {
      if (this.#idleCheck.isNeeded()) return this.#commandQueue.hold(outgoing);
      return this.#commandQueue.send(outgoing);
    }
    if (!(outgoing instanceof PipedCommands) && this.#belongsToHandshake(outgoing))
      return this.#handshake.send(outgoing);
    this.seek();
    if (!this.isAlive()) this.#commandQueue.unsubscribe(outgoing);
    return this.#commandQueue.hold(outgoing, this.#absence);
  }

  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    return this.#commandQueue.refuse(pipeline, ends);
  }

  rejected(command: QueuedCommand, error: Error): void {
    this.#commandQueue.session.answered(command, error);
    if (classifyReply(error) === "reconnect") this.#leave(error, replyCode(error));
  }

  failed(error: Error): void {
    this.#dialer.lastError = error;
    this.#commandQueue.lost(error, false);
  }

  refuseEnd(): Error | undefined {
    return this.#options.role === "owned" ? undefined : this.#commandQueue.errors.needsDedicated("quit");
  }

  async end(ms: number = this.#options.redis.commandTimeoutMs): Promise<void> {
    const refused = this.refuseEnd();
    if (refused) throw refused;
    await this.close(ms);
  }

  // Connecting

  #startConnecting(limits: Limits): Promise<void> {
    // Several may notice a loss, each in its turn: two loops on one connection would hang up on each other.
    if (this.#connecting) return this.#connecting;
    this.#become("connecting");
    this.#connecting = this.#connectWithRetry(limits);
    this.#connecting.catch(() => {}); // heard by those who wait in connect(), by the held commands and by the log
    return this.#connecting;
  }

  async #connectWithRetry(limits: Limits): Promise<void> {
    const { retry, logger, name } = this.#options;
    const deadline = monotonic() + limits.deadlineMs;
    const isRetryable = (error: unknown): boolean => this.#mayBeMended(error) || isRetryableError(error);
    const { signal } = this.#life;
    const options = { ...retry, ...limits, logger: quiet(logger, limits.attempts > 1), signal, isRetryable };
    let refusals = 0;
    const attempt = async (): Promise<void> => {
      try {
        await this.#dialer.attempt(deadline - monotonic());
      } catch (error) {
        // A rotation is over soon. A server that refuses a login again and again is spared, more and more.
        if (this.#mayBeMended(error))
          await sleep(Math.min(retry.baseDelayMs * ++refusals, retry.maxDelayMs), signal).catch(() => {});
        throw error;
      }
    };
    try {
      await connRetry("Redis", `connecting ${name}`, options)(attempt)();
      this.#connecting = undefined;
    } catch (error) {
      this.#connecting = undefined; // before anybody hears of it and tries again
      if (this.#life.signal.aborted) throw this.#commandQueue.errors.closed();
      this.#become("disconnected");
      this.#commandQueue.rejectHeld(error);
      throw error;
    }
  }

  /** A login that was good once, and is refused now: it is being changed, here or at the server. */
  #mayBeMended(error: unknown): boolean {
    return this.#isReconnect && error instanceof AuthFailedError;
  }

  #connected(entry: ConnectAttempt): void {
    const { stream } = this.redis;
    stream.prependOnceListener("close", () => {
      entry.closed();
      this.#lost();
    });
    stream.on("data", ({ buffer }: Buffer) => {
      // Replies are views of it, also those of other tasks. Moving the buffer of one would take the bytes of all.
      markAsUntransferable(buffer);
      this.#probe.received();
      this.#commandQueue.received();
      this.#loginRenewal.look();
      this.#gracefulReconnect.look();
    });
    this.#probe.received();
    this.#commandQueue.connected();
    this.#become("connected");
    this.renewLogin(); // if one came during the handshake
    this.#probe.heartbeat.start();
    this.#failoverMonitor?.start(this.redis.aimedAt);
    void this.#handshake.monitorAgain();
    this.#resubscription.connected();
    this.#commandQueue.release();
    if (this.#isReconnect) this.#options.onReconnected?.();
    this.#isReconnect = true;
  }

  #leave(why: Error, code: string): void {
    if (!this.isAlive() || this.#closing || !this.#gracefulReconnect.request()) return;
    const { logger, name } = this.#options;
    this.#dialer.lastError = why;
    logger.warn("connection leads to the wrong server and is replaced", { name, code });
  }

  #moved(): void {
    this.#leave(new Error("the sentinels name another master"), "MASTER_MOVED");
    this.#gracefulReconnect.look(); // nothing may be under way, and then no last answer ends it
  }

  #outOfStep(why: string): void {
    const { logger, name } = this.#options;
    this.#dialer.lastError = new Error(`replies could have gone to the wrong commands: ${why}`);
    logger.warn("connection is replaced: replies could have gone to the wrong commands", { name, why });
  }

  #lost(): void {
    this.#probe.heartbeat.stop();
    this.#failoverMonitor?.stop();
    this.#gracefulReconnect.stop();
    this.#commandQueue.lost(this.#dialer.lastError, !this.#life.signal.aborted);
    if (!this.#life.signal.aborted) void this.#startConnecting(FOR_EVER);
  }

  #belongsToHandshake(command: QueuedCommand): boolean {
    return this.state === "connecting" && this.#handshake.includes(command);
  }

  // Closing

  async #close(ms: number): Promise<void> {
    const isHeard = this.isAlive() && !this.#commandQueue.isBlocked;
    this.#gracefulReconnect.stop();
    // QUIT is answered after everything written before it.
    const quit = isHeard ? this.redis.own("quit") : Promise.resolve();
    this.#life.abort(this.#commandQueue.errors.closed());
    this.#commandQueue.rejectHeld(this.#commandQueue.errors.closed());
    this.#keys?.close(this.#commandQueue.errors.closed());
    await waitAtMost(ms, quit); // if the server is gone or frozen, the socket is destroyed below
    await this.#connecting?.catch(() => {}); // aborted, and heard where it was asked for
    await Promise.all([this.#dialer.destroy(), this.#failoverMonitor?.close()]);
    this.#probe.heartbeat.stop();
    this.#commandQueue.stop();
    this.#unlisten?.();
    this.#become("closed");
  }

  #become(state: ConnectionState): void {
    this.#isConnected = state === "connected";
    this.#machine.become(state);
  }
}

/** What ioredis says then, with the reply behind it. */
const STRAY_REPLY = "Command queue state error";

const IN_MULTI = "the server cannot be asked where its keys are, inside a MULTI: use multi() with its commands";

type Limits = Pick<RetryConfig, "deadlineMs" | "attempts">;
/** A connection that was lost is sought until it is back or nobody wants it: no budget counted from its birth. */
const FOR_EVER: Limits = { deadlineMs: Infinity, attempts: Infinity };
