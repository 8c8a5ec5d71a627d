import { traitOf } from "./commands.js";
import type { Handle } from "./handle.js";
import type { QueuedCommand } from "./ioredis.js";
import { isReplyError, replyCode } from "./replies.js";
import type { Logger } from "./log.js";
import type { Traffic } from "./traffic.js";

export interface HandshakeOptions {
  readonly traffic: Traffic;
  readonly keyPrefix: string;
  readonly logger: Logger;
  /** Of the connection, in logs. */
  readonly name: string;
}

/** What is said on a new connection before its holder's commands: by ioredis itself, and what brings MONITOR back. */
export class Handshake {
  readonly #handle: Handle;
  readonly #options: HandshakeOptions;
  /** ioredis has sent again what its former connection was subscribed to. */
  #isRestored = false;

  constructor(handle: Handle, options: HandshakeOptions) {
    this.#handle = handle;
    this.#options = options;
    handle.on("connect", () => (this.#isRestored = false));
    handle.on("ready", () => (this.#isRestored = true)); // it comes after what ioredis sends in that status
  }

  /** While the client connects: whether ioredis sends this. */
  includes(command: QueuedCommand): boolean {
    const { status } = this.#handle;
    if (status === "connect") return this.#handle.isOfHandshake(command);
    return status === "ready" && !this.#isRestored && traitOf(command.name) === "subscription";
  }

  send(command: QueuedCommand): unknown {
    const { traffic, keyPrefix } = this.#options;
    // A channel that ioredis subscribes again has its prefix, and was given it once more.
    if (command.name === "ssubscribe") command.args[0] = String(command.args[0]).slice(keyPrefix.length);
    const isSubscription = traitOf(command.name) === "subscription";
    if (isSubscription) traffic.channels.sent(command);
    const { reject } = command;
    command.reject = (error) => {
      // Somebody else who says what ioredis says while it connects learns that it had no effect.
      Reflect.apply(reject, command, [isReplyError(error) ? error : traffic.errors.notSent(command, error)]);
    };
    const written = this.#handle.transmit(command);
    // ioredis leaves it unheard.
    (written as Promise<unknown>).catch((error: unknown) => {
      if (isSubscription && isReplyError(error)) this.#tellRefusal("subscriptions", error);
    });
    return written;
  }

  /** Once the connection is up. */
  async monitorAgain(): Promise<void> {
    const { session } = this.#options.traffic;
    if (!session.isMonitoring) return;
    try {
      await this.#handle.monitorAgain();
    } catch (error) {
      if (!isReplyError(error)) return; // lost once more, and then it is asked for again
      session.monitoringEnded();
      this.#tellRefusal("MONITOR", error);
    }
  }

  /** Nobody waits for an answer to what is asked for again after a reconnect: its holder listens for errors. */
  #tellRefusal(what: string, error: Error): void {
    const { logger, name } = this.#options;
    const code = replyCode(error);
    logger.warn(`after a reconnect the server refused ${what}: nothing more will come`, { name, code });
    this.#handle.emit("error", error);
  }
}
