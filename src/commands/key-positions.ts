import { AsyncResource } from "node:async_hooks";
import type { RedisConfig } from "../config/options.js";
import { Deadlines } from "../core/clock.js";
import { CircuitOpenError, CommandRefusedError } from "../core/errors.js";
import { Fifo } from "../core/fifo.js";
import { classifyReply, isReplyError, replyCode } from "../core/replies.js";
import { sleep } from "../core/waiting.js";
import { dueAt, restartTime, startTime } from "./command-deadlines.js";
import type { CommandErrors } from "./command-errors.js";
import { isInTable, type QueuedCommand } from "./ioredis.js";

type Argument = string | Buffer;

export interface KeyPositionsOptions {
  readonly redis: RedisConfig;
  readonly errors: CommandErrors;
  /** Asks the server for COMMAND with these arguments; the answer comes in bytes. Refuses `command` if it cannot be asked. */
  readonly ask: (command: QueuedCommand, ...args: Argument[]) => Promise<unknown>;
  /** Sends a command that has waited here. */
  readonly send: (command: QueuedCommand) => unknown;
  /** The commands of an order were rejected here. */
  readonly onNotSent?: (commands: readonly QueuedCommand[]) => void;
}

/** Where the keys of a command are, as COMMAND INFO tells. The first argument has the number 1. */
interface Positions {
  readonly first: number;
  /** A negative number counts from the end. */
  readonly last: number;
  readonly step: number;
  /** Only COMMAND GETKEYS can find the keys. */
  readonly areMovable: boolean;
  readonly bySubcommand: ReadonlyMap<string, Positions>;
}

/** A command, or a whole pipeline, that waits here. */
interface Waiting {
  readonly commands: readonly QueuedCommand[];
  readonly send: () => void;
  readonly reject: (error: Error) => void;
  /** A tracer sees the command as sent by its caller, not by the answer that it waited for. */
  readonly caller: AsyncResource;
  state: "asking" | "ready" | "rejected";
}
type Order = Pick<Waiting, "commands" | "send" | "reject">;

/** A service that passes outside input to `call()` must not be able to grow this table without end. */
const MAX_NAMES = 1_000;
/** The pause after a question that was lost with its connection. */
const RETRY_MS = 100;
/** Commands of one turn are due together: if the second were sent in its last moment, its outcome would be in doubt. */
const TOGETHER_MS = 1;
/** Takes the place of an argument, to find out whether it is a key. */
const PROBE = "redthread: is this a key?";

/**
 * Finds the keys of commands that ioredis' table does not know, such as the commands of modules: ioredis would give them
 * no prefix and no node of a Cluster. The server is asked where the keys are, once for each name. A command that needs the
 * answer waits for it here, and commands that are sent later wait behind it, so that the order stays.
 */
export class KeyPositions {
  readonly #options: KeyPositionsOptions;
  /** By name, for commands that are not in ioredis' table: "untold" if the server was asked and has not told yet. */
  readonly #known = new Map<string, Positions | "untold">();
  readonly #asking = new Map<string, Promise<Positions | undefined>>();
  readonly #waiting = new Fifo<Waiting>();
  readonly #deadlines: Deadlines;
  readonly #life = new AbortController();

  constructor(options: KeyPositionsOptions) {
    this.#options = options;
    const { commandTimeoutMs } = options.redis;
    this.#deadlines = new Deadlines({
      expire: ({ cutoff }) => this.#expire(cutoff),
      graceMs: commandTimeoutMs,
      isRef: false, // the socket keeps the loop alive while an answer is owed
    });
  }

  /** Whether a command waits here. */
  get isBusy(): boolean {
    return this.#waiting.size > 0;
  }

  /** Whether the command has to wait. If so, it is sent later from here. */
  delays(command: QueuedCommand): boolean {
    const isReady = this.#place(command, false);
    if (isReady && !this.isBusy) return false;
    const order: Order = {
      commands: [command],
      send: () => {
        // The caller has the command's own promise. The promise of a tracer has no other handler.
        (this.#options.send(command) as Promise<unknown>).catch(() => {});
      },
      reject: (error) => command.reject(error),
    };
    void this.#wait(order, isReady ? [] : [this.#locate(command, false)]);
    return true;
  }

  /** Runs the pipeline later, if it has to wait. */
  delay<T>(pipeline: readonly QueuedCommand[], run: () => Promise<T>): Promise<T> | undefined {
    const unknown = pipeline.filter((command) => !this.#place(command, true));
    if (pipeline.length === 0 || (unknown.length === 0 && !this.isBusy)) return undefined;
    const locating = unknown.map((command) => this.#locate(command, true));
    const delayed = new Promise<T>((resolve, reject) => {
      const send = (): void => resolve((async () => await run())()); // also if it throws
      void this.#wait({ commands: pipeline, send, reject }, locating);
    });
    // A pipeline that was refused may be run once more: its time begins anew then.
    delayed.catch(() => pipeline.forEach(restartTime));
    return delayed;
  }

  /** Rejects all commands that wait here. */
  close(error: Error): void {
    this.#life.abort(error);
    this.#deadlines.stop();
    for (const waiting of this.#waiting) this.#reject(waiting, error);
    this.#advance();
  }

  // The queue

  async #wait(order: Order, locating: readonly Promise<void>[]): Promise<void> {
    const waiting: Waiting = { ...order, caller: new AsyncResource("redthread.keys"), state: "asking" };
    this.#waiting.push(waiting);
    for (const command of order.commands) startTime(command, this.#options.redis.commandTimeoutMs);
    this.#deadlines.arm(dueAt(order.commands[0]!)!);
    try {
      await Promise.all(locating);
      if (waiting.state === "asking") waiting.state = "ready";
    } catch (error) {
      this.#reject(waiting, error as Error);
    }
    this.#advance();
  }

  #reject(waiting: Waiting, error: Error): void {
    if (waiting.state === "rejected") return;
    waiting.state = "rejected";
    this.#options.onNotSent?.(waiting.commands);
    waiting.reject(error);
  }

  #advance(): void {
    for (let next = this.#waiting.peek(); next && next.state !== "asking"; next = this.#waiting.peek()) {
      // It stays in the queue meanwhile, so that a command which is sent by `next.send` itself comes after it.
      if (next.state === "ready") next.caller.runInAsyncScope(next.send);
      this.#waiting.shift();
    }
  }

  #expire(cutoff: number): number {
    let next = Infinity;
    for (const waiting of this.#waiting) {
      const [first] = waiting.commands;
      const due = dueAt(first!) ?? Infinity;
      if (due <= cutoff + TOGETHER_MS) this.#reject(waiting, this.#options.errors.untold(first!));
      else next = Math.min(next, due);
    }
    this.#advance();
    return next;
  }

  // The keys

  /** Whether the command can be sent: its keys are known now, or are not needed. */
  #place(command: QueuedCommand, isPiped: boolean): boolean {
    if (isInTable(command.name)) return true;
    const known = this.#known.get(command.name.toLowerCase());
    // Without a prefix a single command finds its node by the Cluster's redirections.
    const isNeeded = isPiped || this.#options.redis.keyPrefix !== "";
    if (typeof known !== "object") {
      if (!isNeeded && known === undefined) this.#askForLater(command);
      return !isNeeded;
    }
    const indexes = indexesOf(known, command.args);
    if (!indexes) return !isNeeded;
    this.#setKeys(command, indexes);
    return true;
  }

  /** Asks in the background, so that the next command of this name goes to its node at once. */
  #askForLater(command: QueuedCommand): void {
    if (this.#known.size >= MAX_NAMES) return;
    this.#known.set(command.name.toLowerCase(), "untold");
    this.#positionsOf(command).catch(() => {}); // the positions stay unknown
  }

  /** @throws REDTHREAD_COMMAND_REFUSED, REDTHREAD_NOT_SENT */
  async #locate(command: QueuedCommand, isPiped: boolean): Promise<void> {
    const { errors, redis } = this.#options;
    try {
      const positions = await this.#positionsOf(command);
      if (positions) return this.#setKeys(command, indexesOf(positions, command.args) ?? (await this.#askFor(command)));
    } catch (error) {
      if (error instanceof CommandRefusedError || error instanceof CircuitOpenError) throw error;
      if (!isFinal(error)) throw errors.untold(command, error);
      throw errors.refused(command, `the server does not tell where its keys are (${replyCode(error)})`);
    }
    // A command that does not exist gets its error from any node; but a whole pipeline goes to one node.
    if (isPiped && redis.clusterNodes)
      throw errors.refused(command, "the server does not know it, nor where its keys are");
  }

  /** Undefined if the server does not know the command, which may change. */
  #positionsOf(command: QueuedCommand): Promise<Positions | undefined> {
    const name = command.name.toLowerCase();
    let asking = this.#asking.get(name);
    if (!asking) {
      asking = this.#askWhere(command, name).finally(() => this.#asking.delete(name));
      this.#asking.set(name, asking);
    }
    return asking;
  }

  async #askWhere(command: QueuedCommand, name: string): Promise<Positions | undefined> {
    const known = this.#known.get(name);
    if (typeof known === "object") return known; // the keys are movable
    const [told] = (await this.#ask(command, "INFO", name)) as [Told | null];
    if (!told) return undefined;
    const positions = parse(told);
    if (this.#known.size < MAX_NAMES || this.#known.has(name)) this.#known.set(name, positions);
    return positions;
  }

  /** Where the keys are in these very arguments. */
  async #askFor(command: QueuedCommand): Promise<number[]> {
    const args = command.args as Argument[];
    const keys = await this.#keysIn(command, args);
    const candidates = [...args.keys()].filter((i) => keys.includes(bytesOf(args[i]!)));
    if (candidates.length === keys.length || this.#options.redis.keyPrefix === "") return candidates;
    // Some arguments read like keys. An argument is a key if another text in its place would be one.
    const probes = candidates.map((i) => this.#keysIn(command, args.with(i, PROBE)));
    const answers = await Promise.all(probes.map((probe) => probe.catch(noneIfRefused)));
    const found = candidates.filter((_, i) => answers[i]!.includes(PROBE));
    if (found.length !== keys.length)
      throw this.#options.errors.refused(command, "the server does not tell which arguments are its keys");
    return found;
  }

  async #keysIn(command: QueuedCommand, args: readonly Argument[]): Promise<string[]> {
    return ((await this.#ask(command, "GETKEYS", command.name, ...args)) as Buffer[]).map(bytesOf);
  }

  /** Asks again while there is no connection, or the server does not serve, and a command waits. */
  async #ask(command: QueuedCommand, ...args: Argument[]): Promise<unknown> {
    const { whenDown } = this.#options.redis;
    for (;;) {
      try {
        return await this.#options.ask(command, ...args);
      } catch (error) {
        if (isFinal(error) || whenDown === "fail" || !this.isBusy) throw error;
      }
      await sleep(RETRY_MS, this.#life.signal);
    }
  }

  #setKeys(command: QueuedCommand, indexes: readonly number[]): void {
    if (command.getKeys().length > 0) return; // a refused pipeline is run once more
    const { keyPrefix } = this.#options.redis;
    const args = command.args as Argument[];
    for (const i of indexes) args[i] = prefixed(keyPrefix, args[i]!);
    // They replace the result of ioredis' own search, which found nothing.
    Object.assign(command, { keys: indexes.map((i) => args[i]), slot: undefined });
  }
}

/** A row of COMMAND INFO. */
type Told = readonly [
  name: Buffer,
  arity: number,
  flags: Iterable<Buffer>,
  first: number,
  last: number,
  step: number,
  categories?: unknown,
  tips?: unknown,
  specifications?: unknown,
  subcommands?: readonly Told[],
];

function parse([, , flags, first, last, step, , , , subcommands = []]: Told): Positions {
  const areMovable = [...flags].some((flag) => String(flag) === "movablekeys");
  const bySubcommand = new Map(subcommands.map((told) => [String(told[0]).split("|")[1]!, parse(told)]));
  return { first, last, step, areMovable, bySubcommand };
}

/** Undefined if the server has to find the keys. */
function indexesOf(positions: Positions, args: readonly unknown[]): number[] | undefined {
  const ofSubcommand = positions.bySubcommand.get(String(args[0]).toLowerCase());
  if (ofSubcommand) return indexesOf(ofSubcommand, args);
  if (positions.areMovable) return undefined;
  const { first, last, step } = positions;
  const end = Math.min(last < 0 ? args.length + last : last - 1, args.length - 1);
  const indexes: number[] = [];
  if (first > 0) for (let i = first - 1; i <= end; i += Math.max(step, 1)) indexes.push(i);
  return indexes;
}

function prefixed(keyPrefix: string, key: Argument): Argument {
  return typeof key === "string" ? keyPrefix + key : Buffer.concat([Buffer.from(keyPrefix), key]);
}

/** Two arguments give the same text if and only if they have the same bytes. */
function bytesOf(argument: Argument): string {
  return (typeof argument === "string" ? Buffer.from(argument) : argument).toString("latin1");
}

/** Whether the server would answer the same if it were asked again. */
function isFinal(error: unknown): error is Error {
  return error instanceof CommandRefusedError || (isReplyError(error) && classifyReply(error) === "fail");
}

function noneIfRefused(error: unknown): string[] {
  if (isFinal(error)) return [];
  throw error;
}
