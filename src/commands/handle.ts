import type { ConnectionOptions } from "node:tls";
import type { Endpoint, RedisConfig } from "../config/options.js";
import type { Outcome } from "../core/errors.js";
import type { AskedChannel } from "./asked-channels.js";
import { type Callback, settle } from "./callbacks.js";
import { notBegun } from "./command-errors.js";
import { isNamed } from "./commands.js";
import { mayWait } from "./due.js";
import { Command, type CommandStream, type QueuedCommand, type RedisHandle } from "./ioredis.js";
import { commandsOf, type Outgoing, PipedCommands, turnAway } from "./outgoing.js";
import { guardPipeline, type PipelineGate } from "./pipelines.js";
import { type ScriptDefinition, scriptFunction } from "./scripts.js";
import { Wire } from "./wire.js";

type CommandItem = Parameters<RedisHandle["handleReconnection"]>[1];

interface Condition {
  readonly protocol: number;
  readonly auth?: string | readonly [username: string, password: string];
  readonly select: number;
  subscriber: false | { isEmpty(): boolean; readonly set: Record<string, Record<string, true>> };
}

/** Who decides what becomes of a command, and of the wish to end the connection: the `Client` around the handle. */
export interface Gate {
  send(outgoing: Outgoing): unknown;
  /** Runs this pipeline in its turn, if it has to wait because it is not known yet where its keys are. */
  delay<T>(pipeline: readonly QueuedCommand[], run: () => Promise<T>): Promise<T> | undefined;
  /** Why this pipeline may not run here, if so. `ends`: MULTIs whose EXEC is added as it runs. */
  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined;
  /** The server answered a command with an error. */
  refused(command: QueuedCommand, error: Error): void;
  /** ioredis gives up what it has in flight: the parser failed, or the handshake was refused. */
  failed(error: Error): void;
  connect(): Promise<void>;
  /** Why the holder may not end the connection, if so: it is not his. */
  refuseEnd(): Error | undefined;
  end(): Promise<void>;
}

/**
 * The ioredis instance that users hold, good for the life of its client across any number of reconnects.
 * Every command, also those of pipelines and scripts, passes the gate.
 */
export class Handle extends Wire {
  readonly #gate: Gate;
  /** Of a lease whose holder gives up: why nothing that may wait for others is sent any more. */
  calledOff: { readonly reason: unknown } | undefined;
  /** One for all of them: what each had for itself would be kept with it. */
  readonly #pipelineGate: PipelineGate = {
    delay: (commands, run) => this.#gate.delay(commands as readonly QueuedCommand[], run),
    refuse: (commands, ends) => this.#gate.refuse(commands as readonly QueuedCommand[], ends),
    gather: (run) => this.#gather(run),
  };
  /** Of the pipeline that runs in this very moment. */
  #piped: PipedCommands | undefined;
  /** ioredis is on its way out of a failed handshake, or of a reply that is none. */
  #isFailing = false;

  constructor(redis: RedisConfig, gate: Gate) {
    super(ioredisOptions(redis));
    this.#gate = gate;
  }

  override sendCommand(command: QueuedCommand, stream?: CommandStream): unknown {
    // An argument could not be made a text: ioredis has no way to answer it, and has rejected its promise.
    if (!(command.reject as unknown)) return command.promise;
    if (stream) {
      if (!this.#piped) throw new TypeError("a pipeline runs by its own exec()");
      this.#piped.add(command, stream);
      return command.promise;
    }
    if (!isNamed(command, "quit")) return this.#send(command);
    this.quit().then(command.resolve, command.reject);
    return command.promise;
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

  /** Whether ioredis says this while it connects. Somebody else who says the same does no harm. */
  isOfHandshake({ name, args }: QueuedCommand): boolean {
    const { protocol, auth, select } = (this as unknown as { condition: Condition }).condition;
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

  /** ioredis takes a count of 0 for the end of all subscriptions, and those of shards are counted apart from the others. */
  keepSubscriptions(): void {
    const { condition } = this as unknown as { condition: Condition };
    let { subscriber } = condition;
    Object.defineProperty(condition, "subscriber", {
      get: () => subscriber,
      set: (next: Condition["subscriber"]) => {
        if (next || !subscriber || subscriber.isEmpty()) subscriber = next;
      },
    });
  }

  /** The first line can come in the same chunk as the OK: the parser must know before it reads on. */
  expectMonitor(command: QueuedCommand): void {
    const { resolve } = command;
    command.resolve = (reply: unknown) => {
      setStatus(this, "monitoring");
      return Reflect.apply(resolve, command, [reply]);
    };
  }

  /** On a new connection. */
  async monitorAgain(): Promise<void> {
    const command = new Command("monitor");
    this.expectMonitor(command);
    await this.transmit(command);
  }

  /** `onStands` is called before anything that comes behind the confirmation. */
  async subscribeAgain({ by, channel }: AskedChannel, onStands: () => void): Promise<void> {
    const command = new Command(by, [channel]);
    const { resolve } = command;
    command.resolve = (reply: unknown) => {
      onStands();
      return Reflect.apply(resolve, command, [reply]);
    };
    await this.transmit(command);
  }

  /** The server has confirmed it, and has not given it up by itself since. */
  isSubscribedTo({ by, channel }: AskedChannel): boolean {
    const { subscriber } = (this as unknown as { condition: Condition }).condition;
    return subscriber && subscriber.set[by]![String(channel)] === true;
  }

  /** What was given up while it was subscribed to again. */
  giveUp({ by, channel }: AskedChannel): void {
    this.ownBytes(by.replace("sub", "unsub"), channel as Buffer).catch(() => {}); // it ends with the connection
  }

  /** Of one that never connects by itself: what its holders go by. */
  showStatus(status: "ready" | "end"): void {
    setStatus(this, status);
  }

  override recoverFromFatalError(commandError: Error, error: Error, options: never): void {
    this.#gate.failed(error);
    this.#isFailing = true;
    try {
      super.recoverFromFatalError(commandError, error, options);
    } finally {
      this.#isFailing = false;
      this.stream?.destroy(); // also where a listener threw: the rest of what comes is nobody's
    }
  }

  override handleReconnection(error: Error, item: CommandItem): void {
    // ioredis hangs the arguments on the error: users' values, and passwords, which would end in their logs.
    const told = error as { command?: unknown; outcome?: Outcome };
    told.command = { name: item.command.name };
    // Its MULTI was refused, and what came between was carried out as it came.
    if (isNamed(item.command, "exec") && error.message.startsWith("ERR EXEC without MULTI")) told.outcome = "unknown";
    this.#gate.refused(item.command as QueuedCommand, error);
    super.handleReconnection(error, item);
  }

  override pipeline(commands?: unknown[][]): ReturnType<RedisHandle["pipeline"]> {
    return this.#guarded(super.pipeline(commands && withEndings(commands, 0)));
  }

  override multi(options: { pipeline: false }): Promise<"OK">;
  override multi(): ReturnType<RedisHandle["pipeline"]>;
  override multi(options: { pipeline: true }): ReturnType<RedisHandle["pipeline"]>;
  override multi(commands?: unknown[][]): ReturnType<RedisHandle["pipeline"]>;
  override multi(...args: unknown[]): never {
    const [commands, ...rest] = args;
    const batch = Array.isArray(commands) ? [withEndings(commands as unknown[][], 1), ...rest] : args;
    const made = (super.multi as (...args: unknown[]) => unknown).apply(this, batch);
    return (isPipeline(made) ? this.#guarded(made) : made) as never;
  }

  override connect(callback?: (error?: Error | null) => void): Promise<void> {
    return settle(this.#gate.connect(), callback) as Promise<void>;
  }

  override disconnect(reconnect = false): void {
    if (this.#isFailing) return super.disconnect(true);
    const refused = this.#gate.refuseEnd();
    if (refused) throw refused;
    if (reconnect) this.stream?.destroy();
    else void this.#gate.end();
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

  /** Also called by ioredis' constructor, for `redis.scripts`. */
  override defineCommand(name: string, definition: ScriptDefinition): void {
    super.defineCommand(name, definition); // for pipelines, which take the function from here
    const functions = {
      [name]: scriptFunction(definition, "utf8"),
      [`${name}Buffer`]: scriptFunction(definition, null),
    };
    Object.assign(this, functions);
  }

  /** MONITOR on this very connection, where ioredis would open one more that nobody closes. */
  override monitor(callback?: (error: Error | null | undefined, result?: RedisHandle) => void): Promise<RedisHandle> {
    const monitoring = this.call("monitor").then(() => this as unknown as RedisHandle);
    return settle(monitoring, callback as Callback | undefined) as Promise<RedisHandle>;
  }

  #send(outgoing: Outgoing): unknown {
    const { calledOff } = this;
    if (!calledOff || !commandsOf(outgoing).some(mayWait)) return this.#gate.send(outgoing);
    return turnAway(outgoing, (command) => notBegun(command, calledOff.reason));
  }

  #guarded<Pipeline>(pipeline: Pipeline): Pipeline {
    return guardPipeline(pipeline, this.#pipelineGate);
  }

  #gather<T>(run: () => T): T {
    const outer = this.#piped; // a listener of ioredis' channels may run another
    const piped = (this.#piped = new PipedCommands());
    try {
      const running = run();
      if (piped.commands.length > 0) this.#send(piped);
      return running;
    } finally {
      this.#piped = outer;
    }
  }
}

/** In a batch an EXEC that ends nothing would run the pipeline before its maker can: here it is a command like others. */
function withEndings(commands: readonly unknown[][], open: number): unknown[][] {
  let left = open;
  return commands.map(([name, ...args]) => {
    if (name === "multi") left++;
    if (name !== "exec" && name !== "execBuffer") return [name, ...args];
    return left-- > 0 ? [name, ...args] : ["call", "exec", ...args];
  });
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
