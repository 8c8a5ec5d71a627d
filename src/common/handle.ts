import type { ConnectionOptions } from "node:tls";
import type { Command as IoredisCommand, Redis as Ioredis, RedisOptions } from "ioredis";
import { type Callback, settle } from "./callbacks.js";
import type { Endpoint, RedisConfig } from "./options.js";
import { requirePackage } from "./packages.js";
import { guardPipeline } from "./pipelines.js";

const { Command, Redis } = requirePackage<typeof import("ioredis")>("ioredis");

/** An ioredis client, whoever made it: what users hold. */
export type RedisHandle = Ioredis;
export type QueuedCommand = IoredisCommand;
export type CommandStream = Parameters<RedisHandle["sendCommand"]>[1];
type CommandItem = Parameters<RedisHandle["handleReconnection"]>[1];

interface CommandTable {
  exists(name: string, options: { caseInsensitive: boolean }): boolean;
  hasFlag(name: string, flag: "readonly", options: { nameCaseInsensitive: boolean }): boolean;
}

let table: CommandTable | undefined;

/** By the command table that ioredis itself goes by; it is not exported, so it is taken from where ioredis finds it. */
export function isReadOnly(name: string): boolean {
  table ??= requirePackage<CommandTable>("@ioredis/commands", "ioredis");
  return (
    table.exists(name, { caseInsensitive: true }) && table.hasFlag(name, "readonly", { nameCaseInsensitive: true })
  );
}

/** Who decides what becomes of a command, and of the wish to end the connection: the `Client` around the handle. */
export interface Gate {
  send(command: QueuedCommand, stream?: CommandStream): unknown;
  /** Why this pipeline may not run here, if so. */
  refuse(pipeline: readonly QueuedCommand[]): Error | undefined;
  /** The server answered a command with an error. */
  refused(error: Error): void;
  /** ioredis gives up what it has in flight: the parser failed, or the handshake was refused. */
  failed(error: Error): void;
  connect(): Promise<void>;
  /** The holder asks to end the connection: done for its owner, an error for everybody else. */
  end(): Promise<void>;
}

/** ioredis reconnects, queues, resends and times out nothing: all of that is the gate's. */
const RULED_BY_US = {
  lazyConnect: true,
  retryStrategy: null,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  enableReadyCheck: false, // its LOADING wait is a timer out of our hands; PING tells as much
  enableAutoPipelining: false,
  connectTimeout: 0, // blames the peer for a blocked loop, and does not cover the handshake
  disconnectTimeout: 100,
} as const;

/** An ioredis connection that does nothing by itself: it opens, sends and ends when it is told to. */
export class Wire extends Redis {
  constructor(options: Omit<RedisOptions, "replyMapping">) {
    super({ ...options, ...RULED_BY_US });
  }

  /** Straight onto the socket; rejections are the caller's to handle. */
  async own(name: string, ...args: string[]): Promise<unknown> {
    return await super.sendCommand(new Command(name, args, { replyEncoding: "utf8" }));
  }

  /** TCP, TLS and handshake, once. */
  dial(): Promise<void> {
    return super.connect();
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

/**
 * The ioredis instance that users hold, good for the life of its client across any number of reconnects.
 * Every command, also those of pipelines and scripts, passes the gate.
 */
export class Handle extends Wire {
  readonly #gate: Gate;

  constructor(redis: RedisConfig, gate: Gate) {
    super(ioredisOptions(redis));
    this.#gate = gate;
  }

  override sendCommand(command: QueuedCommand, stream?: CommandStream): unknown {
    return this.#gate.send(command, stream);
  }

  /** Past the gate, onto the socket. The promise returned may be a traced one: hand it on, or handle it. */
  transmit(command: QueuedCommand, stream?: CommandStream): unknown {
    return super.sendCommand(command, stream);
  }

  /** The next handshake, and every one after it, logs in with these. */
  logIn({ username, password }: { readonly username?: string; readonly password: string }): void {
    Object.assign(this.options, { username, password });
  }

  /** The next `dial` leads there. */
  aim(address: Endpoint): void {
    Object.assign(this.options, address);
  }

  get aimedAt(): Endpoint {
    return this.options as Endpoint; // its constructor has given it both
  }

  /** Of one that never connects by itself: what its holders go by. */
  showStatus(status: "ready" | "end"): void {
    setStatus(this, status);
  }

  override recoverFromFatalError(commandError: Error, error: Error, options: never): void {
    this.#gate.failed(error);
    super.recoverFromFatalError(commandError, error, options);
  }

  override handleReconnection(error: Error, item: CommandItem): void {
    // ioredis hangs the arguments on the error: users' values, and passwords, which would end in their logs.
    (error as { command?: unknown }).command = { name: item.command.name };
    this.#gate.refused(error);
    super.handleReconnection(error, item);
  }

  override pipeline(commands?: unknown[][]): ReturnType<RedisHandle["pipeline"]> {
    return this.#guarded(super.pipeline(commands));
  }

  override multi(options: { pipeline: false }): Promise<"OK">;
  override multi(): ReturnType<RedisHandle["pipeline"]>;
  override multi(options: { pipeline: true }): ReturnType<RedisHandle["pipeline"]>;
  override multi(commands?: unknown[][]): ReturnType<RedisHandle["pipeline"]>;
  override multi(...args: unknown[]): never {
    const made = (super.multi as (...args: unknown[]) => unknown).apply(this, args);
    return (isPipeline(made) ? this.#guarded(made) : made) as never;
  }

  override connect(callback?: (error?: Error | null) => void): Promise<void> {
    return settle(this.#gate.connect(), callback) as Promise<void>;
  }

  override disconnect(reconnect = false): void {
    if (reconnect) return super.disconnect(true); // ioredis' own way out of a failed handshake
    // The interface is synchronous: what the gate answers can only be an unhandled rejection, and loud it should be.
    void this.#gate.end();
  }

  override quit(callback?: (error?: Error | null, result?: "OK") => void): Promise<"OK"> {
    return settle(
      this.#gate.end().then(() => "OK"),
      callback as Callback | undefined,
    ) as Promise<"OK">;
  }

  override end(): void {
    this.disconnect();
  }

  override duplicate(): never {
    throw new TypeError("a client of redthread cannot be duplicated: its copy would belong to nobody; use connect()");
  }

  /** MONITOR on this very connection, where ioredis would open one more that nobody closes. */
  override monitor(callback?: (error: Error | null | undefined, result?: RedisHandle) => void): Promise<RedisHandle> {
    const command = new Command("monitor");
    const resolve = command.resolve.bind(command);
    command.resolve = (reply: unknown) => {
      // The first line can come in the same chunk as the OK: the parser must know before it reads on.
      setStatus(this, "monitoring");
      resolve(reply);
    };
    const monitoring = (this.sendCommand(command) as Promise<unknown>).then(() => this as unknown as RedisHandle);
    return settle(monitoring, callback as Callback | undefined) as Promise<RedisHandle>;
  }

  #guarded<Pipeline>(pipeline: Pipeline): Pipeline {
    return guardPipeline(pipeline, (commands) => this.#gate.refuse(commands as readonly QueuedCommand[]));
  }
}

function setStatus(handle: Handle, status: string): void {
  (handle as unknown as { setStatus(status: string): void }).setStatus(status);
}

function isPipeline(made: unknown): made is ReturnType<RedisHandle["pipeline"]> {
  return typeof made === "object" && made !== null && "isPipeline" in made;
}

function ioredisOptions(redis: RedisConfig): ConstructorParameters<typeof Wire>[0] {
  const { host, port, path, username, password, db, tls, keyPrefix, scripts, ioredis } = redis;
  return {
    ...ioredis,
    ...(path === undefined ? { host, port } : { path }),
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    // A copy each: ioredis and node:tls write into what they are given, the configuration is frozen.
    ...(tls === false ? {} : { tls: structuredClone(tls) as ConnectionOptions }),
    scripts: structuredClone(scripts),
    keyPrefix,
    db,
  };
}
