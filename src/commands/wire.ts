import { serverName } from "../config/endpoint.js";
import { outside, pipelined } from "../core/channels.js";
import { Command, type QueuedCommand, Redis, type RedisOptions } from "./ioredis.js";
import type { PipedCommands } from "./pipelines.js";

/** ioredis reconnects, holds, resends and times out nothing by itself: the client does all of that. */
const RULED_BY_US = {
  lazyConnect: true,
  retryStrategy: null,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  autoResubscribe: false,
  enableReadyCheck: false, // it waits out LOADING with a timer that we could not stop; a PING tells as much
  enableAutoPipelining: false,
  connectTimeout: 0, // it blames the peer for a blocked loop, and does not cover the handshake
  disconnectTimeout: 100,
} as const;

/** An ioredis connection that does nothing by itself: it opens, sends and ends when it is told to. */
export class Wire extends Redis {
  /** How many writes to the socket belong to ioredis' queue. If there were others, replies would go to wrong commands. */
  writes = 0;
  /** How many of the newest commands in ioredis' queue have not left yet. */
  unsent = 0;

  readonly #servername: string | undefined;

  constructor(options: Omit<RedisOptions, "replyMapping">) {
    super({ ...options, ...RULED_BY_US });
    this.#servername = options.tls?.servername;
  }

  /** Sends a command of the library itself, straight to the socket. The caller handles rejections. */
  async own(name: string, ...args: string[]): Promise<unknown> {
    return await outside(() => this.transmit(new Command(name, args, { replyEncoding: "utf8" })));
  }

  /** As `own`, for arguments of any kind; the answer comes in bytes. */
  async ownBytes(name: string, ...args: (string | Buffer)[]): Promise<unknown> {
    return await outside(() => this.transmit(new Command(name, args)));
  }

  /** Writes a command to the socket. The promise may be the one of a tracer: return it, or handle its rejection. */
  transmit(command: QueuedCommand): unknown {
    this.#expect(1);
    try {
      const sent = super.sendCommand(command);
      if (command.isSettled) this.#correct(0, 1);
      return sent;
    } catch (error) {
      if (this.commandQueue.peekBack()?.command !== command) this.#correct(0, 1);
      throw error;
    }
  }

  /** Writes a pipeline. ioredis writes it with its last command. */
  transmitAll({ commands, stream }: PipedCommands): void {
    const { length } = this.commandQueue;
    this.#expect(commands.length);
    pipelined.commands = commands;
    try {
      for (const command of commands) {
        if (!this.stream.writable) return; // a listener has ended the connection meanwhile
        super.sendCommand(command, stream);
      }
    } finally {
      pipelined.commands = undefined;
      this.#correct(this.commandQueue.length - length, commands.length);
    }
  }

  /** Counts commands before ioredis is given them, because they may leave at once. */
  #expect(commands: number): void {
    this.writes++;
    this.unsent += commands;
  }

  /** ioredis may have rejected some of them instead of writing them. */
  #correct(queued: number, commands: number): void {
    if (queued === 0) this.writes--;
    if (queued < commands) this.unsent -= commands - queued;
  }

  /** TCP, TLS and handshake, once. `db` is selected, whatever database was selected before. */
  dial(db?: number): Promise<void> {
    if (db !== undefined) {
      const { prevCondition } = this as unknown as { prevCondition: { select: number } | null };
      if (prevCondition) prevCondition.select = db;
      Object.assign(this.options, { db });
    }
    const { tls, path, host } = this.options;
    // node:tls sends no server name by itself, and the address may be another one than the last time.
    if (tls && path === undefined) tls.servername = this.#servername ?? serverName(host!);
    return outside(() => super.connect());
  }

  /** Resolves when the socket is gone, whatever state the connection was in. */
  async hangUp(): Promise<void> {
    if (this.status === "end" || this.status === "wait") return;
    // Not events.once(): it rejects when an error event comes first, as it often does.
    const ended = new Promise<void>((resolve) => this.once("end", resolve));
    super.disconnect();
    await ended;
  }

  /** As `hangUp`, without waiting for the peer. */
  async cut(): Promise<void> {
    const hungUp = this.hangUp();
    this.stream?.destroy();
    await hungUp;
  }
}
