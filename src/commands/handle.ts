import type { ConnectionOptions } from "node:tls";
import type { Endpoint, RedisConfig } from "../config/options.js";
import type { Outcome } from "../core/errors.js";
import type { AskedChannel } from "./asked-channels.js";
import { notBegun } from "./command-errors.js";
import {
  type Callback,
  Command,
  type CommandStream,
  type QueuedCommand,
  type RedisHandle,
  withCallback,
} from "./ioredis.js";
import { commandsOf, type Outgoing, type PipelineOwner, Pipelines, rejectOutgoing, withEndings } from "./pipelines.js";
import { type ScriptDefinition, scriptFunction } from "./scripts.js";
import { isNamed, mayWait } from "./traits.js";
import { Wire } from "./wire.js";

type CommandItem = Parameters<RedisHandle["handleReconnection"]>[1];
type Pipeline = ReturnType<RedisHandle["pipeline"]>;

/** What ioredis keeps of a connection. */
interface Condition {
  readonly protocol: number;
  readonly auth?: string | readonly [username: string, password: string];
  readonly select: number;
  subscriber: false | { isEmpty(): boolean; readonly set: Record<string, Record<string, true>> };
}

/** The client around a handle. It decides what becomes of a command, and of the wish to end the connection. */
export interface HandleOwner extends PipelineOwner {
  send(outgoing: Outgoing): unknown;
  /** The server answered a command with an error. */
  rejected(command: QueuedCommand, error: Error): void;
  /** ioredis gives up all commands in flight: the parser failed, or the server rejected the handshake. */
  failed(error: Error): void;
  connect(): Promise<void>;
  /** Why the user may not end the connection, if so: it belongs to others as well. */
  refuseEnd(): Error | undefined;
  end(): Promise<void>;
}

/**
 * The ioredis instance that users hold. It stays valid for the life of its client, across any number of reconnects. Every
 * command passes the owner, also the commands of pipelines and scripts.
 */
export class Handle extends Wire {
  readonly #owner: HandleOwner;
  readonly #pipelines: Pipelines;
  /** Set when the holder of a lease gives up: from now on no command is sent that may wait for others. */
  calledOff: { readonly reason: unknown } | undefined;
  /** ioredis gives up the connection after a failed handshake, or after a reply that it cannot parse. */
  #isFailing = false;

  constructor(redis: RedisConfig, owner: HandleOwner) {
    super(ioredisOptions(redis));
    this.#owner = owner;
    this.#pipelines = new Pipelines(owner, (piped) => this.#send(piped));
  }

  override sendCommand(command: QueuedCommand, stream?: CommandStream): unknown {
    // An argument has no text: ioredis could not make a command of it, and has rejected the promise.
    if (!(command.reject as unknown)) return command.promise;
    if (stream) {
      this.#pipelines.add(command, stream);
      return command.promise;
    }
    if (!isNamed(command, "quit")) return this.#send(command);
    this.quit().then(command.resolve, command.reject);
    return command.promise;
  }

  #send(outgoing: Outgoing): unknown {
    const { calledOff } = this;
    if (!calledOff || !commandsOf(outgoing).some(mayWait)) return this.#owner.send(outgoing);
    return rejectOutgoing(outgoing, (command) => notBegun(command, calledOff.reason));
  }

  override pipeline(commands?: unknown[][]): Pipeline {
    return this.#pipelines.guard(super.pipeline(commands && withEndings(commands, 0)));
  }

  override multi(options: { pipeline: false }): Promise<"OK">;
  override multi(): Pipeline;
  override multi(options: { pipeline: true }): Pipeline;
  override multi(commands?: unknown[][]): Pipeline;
  override multi(...args: unknown[]): never {
    const [commands, ...rest] = args;
    const batch = Array.isArray(commands) ? [withEndings(commands as unknown[][], 1), ...rest] : args;
    const made = (super.multi as (...args: unknown[]) => unknown).apply(this, batch);
    return (isPipeline(made) ? this.#pipelines.guard(made) : made) as never;
  }

  /** ioredis' constructor calls this as well, for `redis.scripts`. */
  override defineCommand(name: string, definition: ScriptDefinition): void {
    super.defineCommand(name, definition); // for pipelines, which take the function from here
    Object.assign(this, {
      [name]: scriptFunction(definition, "utf8"),
      [`${name}Buffer`]: scriptFunction(definition, null),
    });
  }

  /** Monitors on this very connection. ioredis would open another one, which nobody would close. */
  override monitor(callback?: Callback<RedisHandle>): Promise<RedisHandle> {
    const monitoring = this.call("monitor").then(() => this as unknown as RedisHandle);
    return withCallback(monitoring, callback);
  }

  override connect(callback?: Callback<void>): Promise<void> {
    return withCallback(this.#owner.connect(), callback);
  }

  override disconnect(reconnect = false): void {
    if (this.#isFailing) return super.disconnect(true);
    const refused = this.#owner.refuseEnd();
    if (refused) throw refused;
    if (reconnect) this.stream?.destroy();
    else void this.#owner.end();
  }

  override quit(callback?: Callback<"OK">): Promise<"OK"> {
    const ended = this.#owner.end().then(() => "OK" as const);
    return withCallback(ended, callback);
  }

  override end(): void {
    this.disconnect();
  }

  override duplicate(): never {
    throw new TypeError("a client of redthread cannot be duplicated: its copy would belong to nobody; use connect()");
  }

  override recoverFromFatalError(commandError: Error, error: Error, options: never): void {
    this.#owner.failed(error);
    this.#isFailing = true;
    try {
      super.recoverFromFatalError(commandError, error, options);
    } finally {
      this.#isFailing = false;
      this.stream?.destroy(); // also if a listener threw: nobody waits for the rest of what comes
    }
  }

  override handleReconnection(error: Error, item: CommandItem): void {
    // ioredis attaches the arguments to the error. They are users' values and passwords, and would end in users' logs.
    const told = error as { command?: unknown; outcome?: Outcome };
    told.command = { name: item.command.name };
    // The server rejected the MULTI of this EXEC, and carried out the commands between as they came.
    if (isNamed(item.command, "exec") && error.message.startsWith("ERR EXEC without MULTI")) told.outcome = "unknown";
    this.#owner.rejected(item.command as QueuedCommand, error);
    super.handleReconnection(error, item);
  }

  // For the owner

  /** All further handshakes log in with these. */
  logIn({ username, password }: { readonly username?: string; readonly password: string }): void {
    Object.assign(this.options, { username, password });
  }

  /** The next `dial` connects to this address. */
  aim(address: Endpoint): void {
    Object.assign(this.options, address);
  }

  get aimedAt(): Endpoint {
    return this.options as Endpoint; // ioredis' constructor has set both fields
  }

  /** With RESP3 a subscribed connection runs other commands, too. */
  get speaksResp3(): boolean {
    return this.#condition.protocol === 3;
  }

  /** Whether ioredis sends this command while it connects. If a user sends the same, no harm is done. */
  isOfHandshake({ name, args }: QueuedCommand): boolean {
    const { protocol, auth, select } = this.#condition;
    const login = Array.isArray(auth) ? (auth as string[]) : ["default", auth];
    switch (name) {
      case "hello":
        return String(args) === String(auth ? [protocol, "AUTH", ...login] : [protocol]);
      case "auth":
        return String(args) === String(auth);
      case "select":
        return Number(args[0]) === select;
      case "client":
        return args[0] === "SETINFO";
      default:
        return false;
    }
  }

  /** ioredis takes a count of 0 for the end of all subscriptions, but the server counts the channels of shards apart. */
  keepSubscriptions(): void {
    let { subscriber } = this.#condition;
    Object.defineProperty(this.#condition, "subscriber", {
      get: () => subscriber,
      set: (next: Condition["subscriber"]) => {
        if (next || !subscriber || subscriber.isEmpty()) subscriber = next;
      },
    });
  }

  /** The first line of MONITOR can come in the same chunk as its OK: the parser must know before it reads on. */
  expectMonitor(command: QueuedCommand): void {
    beforeReply(command, () => setStatus(this, "monitoring"));
  }

  /** Starts MONITOR on a new connection. */
  async monitorAgain(): Promise<void> {
    const command = new Command("monitor");
    this.expectMonitor(command);
    await this.transmit(command);
  }

  /** Subscribes on a new connection. `onStands` is called before anything that comes behind the confirmation. */
  async subscribeAgain({ by, channel }: AskedChannel, onStands: () => void): Promise<void> {
    const command = new Command(by, [channel]);
    beforeReply(command, onStands);
    await this.transmit(command);
  }

  /** Whether the server has confirmed the subscription, and has not ended it by itself since. */
  isSubscribedTo({ by, channel }: AskedChannel): boolean {
    const { subscriber } = this.#condition;
    return subscriber && subscriber.set[by]![String(channel)] === true;
  }

  /** Unsubscribes from a channel that the user gave up while it was subscribed to again. */
  giveUp({ by, channel }: AskedChannel): void {
    this.ownBytes(by.replace("sub", "unsub"), channel as Buffer).catch(() => {}); // it ends with the connection
  }

  /** Shows users the status of a handle that never connects by itself. */
  showStatus(status: "ready" | "end"): void {
    setStatus(this, status);
  }

  get #condition(): Condition {
    return (this as unknown as { condition: Condition }).condition;
  }
}

/** Calls `act` when the command is answered without an error, before anything that comes behind the answer. */
function beforeReply(command: QueuedCommand, act: () => void): void {
  const { resolve } = command;
  command.resolve = (reply: unknown) => {
    act();
    return Reflect.apply(resolve, command, [reply]);
  };
}

function setStatus(handle: Handle, status: string): void {
  (handle as unknown as { setStatus(status: string): void }).setStatus(status);
}

function isPipeline(made: unknown): made is Pipeline {
  return typeof made === "object" && made !== null && "isPipeline" in made;
}

function ioredisOptions(redis: RedisConfig): ConstructorParameters<typeof Wire>[0] {
  const { host, port, path, username, password, db, tls, keyPrefix, scripts, ioredis } = redis;
  return {
    ...ioredis,
    ...(path === undefined ? { host, port } : { path }),
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    // Copies, because ioredis and node:tls write into these objects and the configuration is frozen.
    ...(tls === false ? {} : { tls: structuredClone(tls) as ConnectionOptions }),
    scripts: structuredClone(scripts),
    keyPrefix,
    db,
  };
}
