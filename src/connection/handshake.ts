import type { CommandQueue } from "../commands/command-queue.js";
import type { Handle } from "../commands/handle.js";
import type { QueuedCommand } from "../commands/ioredis.js";
import type { Logger } from "../core/log.js";
import { isReplyError, replyCode } from "../core/replies.js";

export interface HandshakeOptions {
  readonly commandQueue: CommandQueue;
  readonly logger: Logger;
  /** Of the connection, in logs. */
  readonly name: string;
}

/** What is said on a new connection before its holder's commands: by ioredis itself, and what brings MONITOR back. */
export class Handshake {
  readonly #handle: Handle;
  readonly #options: HandshakeOptions;

  constructor(handle: Handle, options: HandshakeOptions) {
    this.#handle = handle;
    this.#options = options;
  }

  /** While the client connects: whether ioredis sends this. */
  includes(command: QueuedCommand): boolean {
    return this.#handle.status === "connect" && this.#handle.isOfHandshake(command);
  }

  send(command: QueuedCommand): unknown {
    const { errors } = this.#options.commandQueue;
    const { reject } = command;
    command.reject = (error) => {
      // Somebody else who says what ioredis says while it connects learns that it had no effect.
      Reflect.apply(reject, command, [isReplyError(error) ? error : errors.lost(command, error)]);
    };
    const written = this.#handle.transmit(command);
    // ioredis leaves it unheard.
    (written as Promise<unknown>).catch(() => {});
    return written;
  }

  /** Once the connection is up. Nobody waits for the answer: where it is a refusal, the holder listens for errors. */
  async monitorAgain(): Promise<void> {
    const { logger, name, commandQueue } = this.#options;
    if (!commandQueue.session.isMonitoring) return;
    try {
      await this.#handle.monitorAgain();
    } catch (error) {
      if (!isReplyError(error)) return; // lost once more, and then it is asked for again
      commandQueue.session.monitoringEnded();
      logger.warn("MONITOR was refused after a reconnect", { name, code: replyCode(error) });
      this.#handle.emit("error", error);
    }
  }
}
