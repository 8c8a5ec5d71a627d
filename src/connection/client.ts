// The room src/connection holds the life of one connection: connecting, logging in, finding out that the peer or the master
// has gone, reconnecting, resetting the session for the next holder, closing. It may import commands, gate, link, config and
// core; it knows neither pools nor threads nor the Cluster. Start here: `Client` gives each part (Dialer, Liveness,
// GracefulReconnect …) itself as a `ClientContext`, and receives every command of its handle in `send`.

import { markAsUntransferable } from "node:worker_threads";
import type { AskedChannel } from "../commands/asked-channels.js";
import { CommandQueue } from "../commands/command-queue.js";
import { Handle, type HandleOwner } from "../commands/handle.js";
import type { QueuedCommand } from "../commands/ioredis.js";
import type { KeyPositions } from "../commands/key-positions.js";
import { type Outgoing, PipedCommands, rejectOutgoing } from "../commands/pipelines.js";
import { classifyReply, isReplyError, replyCode, runIdIn } from "../core/replies.js";
import { monotonic } from "../core/clock.js";
import { abortable, waitAtMost, within } from "../core/waiting.js";
import { type ClientOptions, connectFailed } from "./client-context.js";
import { type ConnectionState, StateMachine } from "./connection-state.js";
import { Dialer, type DialingClient, type Limits } from "./dialer.js";
import { GracefulReconnect } from "./graceful-reconnect.js";
import { Liveness } from "./liveness.js";
import { ConnectionLogin } from "./login.js";
import { SessionReset } from "./session-reset.js";
import { SessionRestore } from "./session-restore.js";

/** What ioredis says when a reply comes that no command waits for; the reply follows. */
const STRAY_REPLY = "Command queue state error";
const IN_MULTI = "the server cannot be asked where its keys are, inside a MULTI: use multi() with its commands";
/** A lost connection is sought until it is back or the client is closed. */
const FOR_EVER: Limits = { deadlineMs: Infinity, attempts: Infinity };

/**
 * One connection for life: the handle stays while sockets come and go under it. Only the client connects, reconnects and
 * ends it, and every command settles.
 */
export class Client implements HandleOwner, DialingClient {
  readonly options: ClientOptions;
  readonly redis: Handle;
  readonly commandQueue: CommandQueue;
  readonly life: AbortSignal;
  lastError: Error | undefined;
  lastFailure: Error | undefined;
  server: string | undefined;
  readonly #end = new AbortController();
  readonly #states: StateMachine;
  readonly #login: ConnectionLogin;
  readonly #dialer: Dialer;
  readonly #liveness: Liveness;
  readonly #gracefulReconnect: GracefulReconnect;
  readonly #sessionRestore: SessionRestore;
  readonly #sessionReset: SessionReset;
  readonly #keys: KeyPositions | undefined;
  #connecting: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  readonly #unlisten: (() => void) | undefined;

  constructor(options: ClientOptions) {
    const { redis, name, role } = options;
    this.options = options;
    this.life = this.#end.signal;
    this.redis = new Handle(redis, this);
    this.commandQueue = new CommandQueue(this.redis, {
      redis,
      name,
      role,
      onTimeout: () => this.#liveness.suspect(),
      receivedAt: () => this.#liveness.receivedAt,
      onOutOfStep: (why) => this.#outOfStep(why),
      whyAway: () => (this.isAlive() ? undefined : this.#absence?.why),
    });
    this.#states = new StateMachine(this);
    this.#login = new ConnectionLogin(this);
    this.#dialer = new Dialer(this, this.#login);
    this.#liveness = new Liveness(this);
    this.#gracefulReconnect = new GracefulReconnect(this);
    this.#sessionRestore = new SessionRestore(this);
    this.redis.on("error", (error: Error) => {
      this.lastError = error;
      if (error.message.startsWith(STRAY_REPLY)) this.commandQueue.fallOutOfStep("a reply came that nobody waits for");
    });
    this.#sessionReset = new SessionReset(this);
    this.#keys =
      options.KeyPositions &&
      new options.KeyPositions({
        redis,
        errors: this.commandQueue.errors,
        ask: (command, ...args) => this.askAbout(command, ...args),
        send: (command) => this.#send(command),
        onNotSent: (commands) => this.commandQueue.session.notSent(commands),
      });
    // The holder of a dedicated client must not find an AUTH between two commands: its owner calls renewLogin.
    if (role !== "dedicated") this.#unlisten = options.logins?.listen(() => this.renewLogin());
  }

  get state(): ConnectionState {
    return this.#states.state;
  }

  /** The server has not refused to restore any subscription. */
  get areSubscriptionsBack(): boolean {
    return this.#sessionRestore.isComplete;
  }

  /**
   * Resolves when connected, or rejects at the retry deadline; concurrent callers share one attempt. An abort frees its
   * caller, while the attempt goes on for the others.
   * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED, REDTHREAD_NOT_SENT (closed), `signal.reason`
   */
  async connect(signal?: AbortSignal): Promise<void> {
    const { idleCheck } = this.#liveness;
    if (idleCheck) await abortable(idleCheck, signal);
    if (this.isAlive()) return;
    if (this.life.aborted) throw this.commandQueue.errors.closed();
    const { retry } = this.options;
    if (this.state === "disconnected") return abortable(this.#startConnecting(retry), signal);
    // After a loss (its close event may be still to come) the attempts go on for ever; only this caller stops waiting.
    const giveUp = (): Error => this.lastFailure ?? connectFailed(this);
    await within(abortable(this.#startConnecting(FOR_EVER), signal), retry.deadlineMs, giveUp);
  }

  /** Connects in the background, for as long as it takes. */
  seek(): void {
    if (this.state === "disconnected") void this.#startConnecting(FOR_EVER);
  }

  /** Cheap: no I/O, no allocation. */
  isAlive(): boolean {
    return this.#states.state === "connected" && this.redis.stream.writable;
  }

  /** Whether the connection can be closed and opened again without a loss: no command is pending, the session has no state. */
  get isIdle(): boolean {
    return this.isAlive() && this.redis.commandQueue.length === 0 && this.commandQueue.session.clean;
  }

  /** As `Handle.subscribeAgain`, for a channel that was subscribed to on another connection. */
  subscribeAgain(asked: AskedChannel, onStands: () => void): Promise<void> {
    this.commandQueue.session.taint();
    return this.redis.subscribeAgain(asked, onStands);
  }

  /** Alive, and something was received within `idleMs`: needs no PING. */
  isFresh(idleMs: number, now: number = monotonic()): boolean {
    return this.isAlive() && this.#liveness.hasReceivedWithin(idleMs, now);
  }

  /**
   * Whether the peer answers a PING, or sends anything else, within the command timeout; concurrent callers share one
   * PING. A connection that fails (half-open, frozen) is destroyed, and so replaced.
   */
  check(): Promise<boolean> {
    return this.#liveness.check();
  }

  /**
   * Whether the next holder can use the connection. Removes the holder's listeners, and undoes what one round trip can
   * undo. `isAwaited`: the next holder waits already.
   */
  reset(isAwaited = false): boolean | Promise<boolean> {
    const isPossible =
      this.isAlive() && !this.#login.isOutdated && this.#sessionReset.isPossible && !this.#keys?.isBusy;
    return isPossible && this.#sessionReset.begin(isAwaited);
  }

  /** Waits for pending replies, says QUIT, and is gone after `ms` at the latest. Never rejects, and never connects. */
  async close(ms: number): Promise<void> {
    if (!this.#closing) return (this.#closing = this.#close(ms));
    // A later caller with less time does not wait for the QUIT of the first.
    if (!(await waitAtMost(ms, this.#closing))) this.redis.stream?.destroy();
    return this.#closing;
  }

  /**
   * The holder has given up: a blocking command ends together with the connection, before it takes an item that nobody wants.
   * Returns whether there was a blocking command.
   */
  callOff(reason: unknown): boolean {
    if (!this.commandQueue.isBlocking) return false;
    this.lastError = reason as Error;
    void this.close(0);
    return true;
  }

  /**
   * Sends COMMAND with these arguments on this connection. In a MULTI it would become a part of the transaction: there it
   * is refused, in the name of the command whose keys are asked for.
   */
  async askAbout(command: QueuedCommand, ...args: (string | Buffer)[]): Promise<unknown> {
    const { whenDown, commandTimeoutMs } = this.options.redis;
    const absence = this.isAlive() ? undefined : this.#absence;
    if (absence && whenDown === "fail") throw absence.why;
    await this.connect(this.life);
    const refused = this.inTransaction
      ? this.commandQueue.errors.refused(command, IN_MULTI)
      : this.refuse([command], 0);
    if (refused) throw refused;
    return await within(this.redis.ownBytes("command", ...args), commandTimeoutMs, () => {
      this.#liveness.suspect();
      return connectFailed(this);
    });
  }

  get inTransaction(): boolean {
    return this.commandQueue.session.inTransaction;
  }

  /** AUTH with the latest login: at once, or when the session allows it. */
  renewLogin(): void {
    if (this.isAlive()) this.#login.renew(); // an attempt to connect uses the latest login anyway
  }

  // The owner of the handle

  send(outgoing: Outgoing): unknown {
    // Also while QUIT is under way: a command written after it would never run.
    if (this.#closing) return this.#rejectClosed(outgoing);
    return this.#keys && this.#isDelayed(outgoing, this.#keys) ? outgoing.promise : this.#send(outgoing);
  }

  /** Apart from `send`, where the closure would cost every command an allocation. */
  #rejectClosed(outgoing: Outgoing): unknown {
    return rejectOutgoing(outgoing, () => this.commandQueue.errors.closed());
  }

  delay<T>(pipeline: readonly QueuedCommand[], run: () => Promise<T>): Promise<T> | undefined {
    return this.#closing ? undefined : this.#keys?.delay(pipeline, run);
  }

  /** The handshake is never delayed: what waits for key positions needs the connection. Pipelines have waited in `delay`. */
  #isDelayed(outgoing: Outgoing, keys: KeyPositions): outgoing is QueuedCommand {
    return !(outgoing instanceof PipedCommands || this.#belongsToHandshake(outgoing)) && keys.delays(outgoing);
  }

  #send(outgoing: Outgoing): unknown {
    if (this.isAlive() && !this.#gracefulReconnect.isPending) {
      if (this.#liveness.needsIdleCheck()) return this.commandQueue.hold(outgoing);
      return this.commandQueue.send(outgoing);
    }
    if (!(outgoing instanceof PipedCommands) && this.#belongsToHandshake(outgoing)) return this.#dialer.send(outgoing);
    this.seek();
    if (!this.isAlive()) this.commandQueue.unsubscribe(outgoing);
    return this.commandQueue.hold(outgoing, this.#absence);
  }

  #belongsToHandshake(command: QueuedCommand): boolean {
    return this.state === "connecting" && this.#dialer.sendsItself(command);
  }

  /** Why the client is down. A client that was never connected is not "down": this command is its first use. */
  get #absence(): { readonly why: unknown } | undefined {
    const why = this.options.gate.explain() ?? this.lastFailure ?? this.lastError;
    return !this.#dialer.hasConnected && why === undefined ? undefined : { why };
  }

  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    return this.commandQueue.refuse(pipeline, ends);
  }

  /** The server answered with an error. READONLY rejects the command, and also replaces the connection. */
  rejected(command: QueuedCommand, error: Error): void {
    this.commandQueue.session.answered(command, error);
    if (classifyReply(error) === "reconnect") this.#gracefulReconnect.request(error, replyCode(error));
  }

  failed(error: Error): void {
    this.lastError = error;
    this.commandQueue.lost(error, false);
  }

  refuseEnd(): Error | undefined {
    return this.options.role === "owned" ? undefined : this.commandQueue.errors.needsDedicated("quit");
  }

  async end(ms: number = this.options.redis.commandTimeoutMs): Promise<void> {
    const refused = this.refuseEnd();
    if (refused) throw refused;
    await this.close(ms);
  }

  // Connecting

  #startConnecting(limits: Limits): Promise<void> {
    // Several callers may notice a loss in different turns: two loops on one connection would hang up on each other.
    if (this.#connecting) return this.#connecting;
    this.#states.become("connecting");
    this.#connecting = this.#connect(limits);
    this.#connecting.catch(() => {}); // callers of connect(), held commands and the log report it
    return this.#connecting;
  }

  async #connect(limits: Limits): Promise<void> {
    try {
      await this.#dialer.connect(limits);
      this.#connecting = undefined;
    } catch (error) {
      this.#connecting = undefined; // before a caller sees the error and tries again
      if (this.life.aborted) throw this.commandQueue.errors.closed();
      this.#states.become("disconnected");
      this.commandQueue.rejectHeld(error);
      throw error;
    }
  }

  async onServed(): Promise<void> {
    if (!this.options.isNode) await this.#sessionRestore.subscribe();
  }

  async identify(): Promise<void> {
    const info = await this.redis.own("info", "server").catch((error: unknown) => {
      if (!isReplyError(error)) throw error;
    });
    this.server = runIdIn(info);
    // During the handshake it is not certain yet that this server is used.
    if (this.state === "connected") this.options.onIdentified?.(this.server);
  }

  onConnected(): void {
    this.redis.stream.on("data", ({ buffer }: Buffer) => {
      // Replies are views of this buffer, also replies to other tasks: moving it to a thread would take the bytes of all.
      markAsUntransferable(buffer);
      this.#liveness.received();
      this.commandQueue.received();
      this.#login.look();
      this.#gracefulReconnect.look();
    });
    this.#liveness.received();
    this.commandQueue.connected();
    this.#states.become("connected");
    this.options.onIdentified?.(this.server);
    this.renewLogin(); // if a new login came during the handshake
    this.#liveness.start();
    this.#sessionRestore.connected();
    this.commandQueue.release();
    if (this.#dialer.hasConnected) this.options.onReconnected?.();
  }

  release(): void {
    if (!this.#gracefulReconnect.isPending) this.commandQueue.release();
  }

  onMasterMoved(): void {
    this.#gracefulReconnect.request(new Error("the sentinels name another master"), "MASTER_MOVED");
    this.#gracefulReconnect.look(); // without pending commands no last reply would end the connection
  }

  #outOfStep(why: string): void {
    const { logger, name } = this.options;
    this.lastError = new Error(`replies could have gone to the wrong commands: ${why}`);
    logger.warn("connection is replaced: replies could have gone to the wrong commands", { name, why });
  }

  onLost(): void {
    this.#liveness.stop();
    this.#gracefulReconnect.stop();
    this.commandQueue.lost(this.lastError, !this.life.aborted);
    if (!this.life.aborted) void this.#startConnecting(FOR_EVER);
  }

  // Closing

  async #close(ms: number): Promise<void> {
    const { commandQueue } = this;
    const closed = commandQueue.errors.closed();
    const answersQuit = this.isAlive() && !commandQueue.isBlocked;
    this.#gracefulReconnect.stop();
    // QUIT is answered after everything that was written before it.
    const quit = answersQuit ? this.redis.own("quit") : Promise.resolve();
    this.#end.abort(closed);
    commandQueue.rejectHeld(closed);
    this.#keys?.close(closed);
    await waitAtMost(ms, quit); // if the server is gone or frozen, the socket is destroyed below
    await this.#connecting?.catch(() => {}); // aborted; its callers see the error
    await this.#dialer.close();
    this.#liveness.stop();
    commandQueue.stop();
    this.#unlisten?.();
    this.#states.become("closed");
  }
}
