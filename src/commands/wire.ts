import { serverName } from "../config/endpoint.js";
import { outside, pipelined } from "../core/channels.js";
import { Command, type QueuedCommand, Redis, type RedisOptions } from "./ioredis.js";
import type { PipedCommands } from "./outgoing.js";

/** ioredis reconnects, queues, resends and times out nothing: all of that is the gate's. */
const RULED_BY_US = {
  lazyConnect: true,
  retryStrategy: null,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  autoResubscribe: false,
  enableReadyCheck: false, // its LOADING wait is a timer out of our hands; PING tells as much
  enableAutoPipelining: false,
  connectTimeout: 0, // blames the peer for a blocked loop, and does not cover the handshake
  disconnectTimeout: 100,
} as const;

/** An ioredis connection that does nothing by itself: it opens, sends and ends when it is told to. */
export class Wire extends Redis {
  /** Writes to the socket that belong to what is in ioredis' queue. Where there were others, replies would go to the wrong commands. */
  writes = 0;
  /** The newest commands of the queue, which have not left yet. */
  unsent = 0;

  readonly #servername: string | undefined;

  constructor(options: Omit<RedisOptions, "replyMapping">) {
    super({ ...options, ...RULED_BY_US });
    this.#servername = options.tls?.servername;
  }

  /** Straight onto the socket; rejections are the caller's to handle. */
  async own(name: string, ...args: string[]): Promise<unknown> {
    return await outside(() => this.transmit(new Command(name, args, { replyEncoding: "utf8" })));
  }

  /** The same for arguments of any kind, with an answer in bytes. */
  async ownBytes(name: string, ...args: (string | Buffer)[]): Promise<unknown> {
    return await outside(() => this.transmit(new Command(name, args)));
  }

  /** Onto the socket. The promise returned may be a traced one: hand it on, or handle it. */
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

  /** The same for a pipeline, which ioredis writes with its last command. */
  transmitAll({ commands, stream }: PipedCommands): void {
    const { length } = this.commandQueue;
    this.#expect(commands.length);
    pipelined.commands = commands;
    try {
      for (const command of commands) {
        if (!this.stream.writable) return; // ended meanwhile, by who listens
        super.sendCommand(command, stream);
      }
    } finally {
      pipelined.commands = undefined;
      this.#correct(this.commandQueue.length - length, commands.length);
    }
  }

  /** Before they are given to ioredis: they may leave at once. */
  #expect(commands: number): void {
    this.writes++;
    this.unsent += commands;
  }

  /** ioredis may have turned some away. */
  #correct(queued: number, commands: number): void {
    if (queued === 0) this.writes--;
    if (queued < commands) this.unsent -= commands - queued;
  }

  /** TCP, TLS and handshake, once; with `db` also for whoever selected another one before. */
  dial(db?: number): Promise<void> {
    if (db !== undefined) {
      const { prevCondition } = this as unknown as { prevCondition: { select: number } | null };
      if (prevCondition) prevCondition.select = db;
      Object.assign(this.options, { db });
    }
    const { tls, path, host } = this.options;
    // node:tls names nobody by itself; where the connection leads can have changed.
    if (tls && path === undefined) tls.servername = this.#servername ?? serverName(host!);
    return outside(() => super.connect());
  }

  /** Resolves when the socket is gone, whatever state the connection was in. */
  async hangUp(): Promise<void> {
    if (this.status === "end" || this.status === "wait") return;
    // Not events.once(): that one rejects when an error event comes first, as it often does.
    const ended = new Promise<void>((resolve) => this.once("end", resolve));
    super.disconnect();
    await ended;
  }

  /** As `hangUp`, without waiting for the other end. */
  async cut(): Promise<void> {
    const hungUp = this.hangUp();
    this.stream?.destroy();
    await hungUp;
  }
}
