import { isReplyError } from "../core/replies.js";
import { monotonic } from "../core/clock.js";
import { within } from "../core/waiting.js";
import { type ClientContext, connectFailed } from "./client-context.js";

/**
 * Finds out by a PING whether the peer is still there: regularly while the connection is silent (a peer can vanish
 * without FIN or RST), before a command is written to an idle connection, and after a command has timed out.
 * A connection whose peer does not answer is destroyed, and so replaced.
 */
export class Liveness {
  /** When something was last received, on the monotonic clock. */
  receivedAt = 0;
  readonly #client: ClientContext;
  #heartbeat: NodeJS.Timeout | undefined;
  #checking: Promise<boolean> | undefined;
  #idleCheck: Promise<void> | undefined;

  constructor(client: ClientContext) {
    this.#client = client;
  }

  /** The connection is up. */
  start(): void {
    this.stop();
    this.#armHeartbeat(this.#client.options.redis.heartbeatMs);
  }

  stop(): void {
    clearTimeout(this.#heartbeat);
  }

  received(): void {
    this.receivedAt = monotonic();
  }

  hasReceivedWithin(ms: number, now: number = monotonic()): boolean {
    return now - this.receivedAt <= ms;
  }

  /** Whether the peer answers a PING, or sends anything else, within the command timeout. Concurrent callers share one PING. */
  check(): Promise<boolean> {
    const { commandTimeoutMs } = this.#client.options.redis;
    return (this.#checking ??= this.#ping(commandTimeoutMs).finally(() => (this.#checking = undefined)));
  }

  /** A command timed out: checks the peer. Behind a BLPOP without timeout a PING would learn nothing. */
  suspect(): void {
    if (!this.#client.commandQueue.isBlocked && !this.#disturbsSession) void this.check();
  }

  /** The idle check in progress, if any. */
  get idleCheck(): Promise<void> | undefined {
    return this.#idleCheck;
  }

  /**
   * Whether commands have to wait for an idle check; begins one if the connection was silent for `idleCheckMs`. Commands
   * written to a vanished peer may have run or not, while commands that wait have certainly not. The nodes of a Cluster need
   * this because their connections cannot be checked when the client is handed out: the next command decides on the node.
   */
  needsIdleCheck(): boolean {
    const { idleCheckMs } = this.#client.options;
    if (this.#idleCheck) return true;
    if (idleCheckMs === undefined || !this.#isQuiet || this.hasReceivedWithin(idleCheckMs)) return false;
    this.#idleCheck = this.#checkIdle();
    return true;
  }

  async #checkIdle(): Promise<void> {
    const isThere = await this.#ping(this.#client.options.redis.commandTimeoutMs / 2); // the held commands keep the other half
    this.#idleCheck = undefined;
    if (isThere) this.#client.release();
  }

  #armHeartbeat(ms: number): void {
    this.#heartbeat = setTimeout(() => this.#beat(), ms).unref();
  }

  #beat(): void {
    const { heartbeatMs } = this.#client.options.redis;
    const leftMs = this.receivedAt + heartbeatMs - monotonic();
    this.#armHeartbeat(leftMs > 0 ? leftMs : heartbeatMs);
    // Pending commands have a deadline, at which `suspect` asks the same question.
    if (leftMs <= 0 && this.#isQuiet) void this.check();
  }

  /** No command is pending that a PING would have to wait for. */
  get #isQuiet(): boolean {
    return !this.#client.commandQueue.isBusy && !this.#disturbsSession;
  }

  /** A PING would become a part of a MULTI, and its reply would appear among the lines of MONITOR. */
  get #disturbsSession(): boolean {
    const { session } = this.#client.commandQueue;
    return session.inTransaction || session.isMonitoring;
  }

  async #ping(ms: number): Promise<boolean> {
    const client = this.#client;
    if (!client.isAlive()) return false;
    const { stream } = client.redis;
    const askedAt = monotonic();
    try {
      await within(client.redis.own("ping"), ms, () => connectFailed(client));
      return true;
    } catch (error) {
      if (isReplyError(error)) return true;
      // The PONG may be behind a large reply or a slow command: any bytes prove that the peer is there.
      if (client.isAlive() && this.receivedAt > askedAt) return true;
      stream.destroy();
      return false;
    }
  }
}
