import { AsyncResource } from "node:async_hooks";
import { Arrival } from "./arrival.js";
import { isSharedClient, traitOf } from "./commands.js";
import { Deadlines } from "./deadlines.js";
import { CircuitOpenError, CommandTimeoutError, NeedsDedicatedError, NotSentError, ReplyLostError } from "./errors.js";
import type { CommandStream, Handle, QueuedCommand } from "./handle.js";
import type { ClientRole } from "./names.js";
import type { RedisConfig } from "./options.js";
import { sendThroughOutbox } from "./outbox.js";
import { isResendable, markResent, wasSent } from "./resend.js";
import { Session } from "./session.js";
import { type Expiry, monotonic } from "./time.js";

export interface TrafficOptions {
  readonly redis: RedisConfig;
  /** Of the connection, in errors. */
  readonly name: string;
  readonly role: ClientRole;
  /** A command that was written had no reply by its deadline: is anybody there? */
  readonly onTimeout: () => void;
}

interface Held {
  readonly command: QueuedCommand;
  readonly stream: CommandStream;
  /** For a tracer it is sent by who asked for it, not by who connected. */
  readonly caller: AsyncResource;
}

/** Why there is no connection. */
interface Absence {
  readonly why: unknown;
}

const DUE_AT = Symbol("dueAt");
type Timed = QueuedCommand & { [DUE_AT]?: number };

const SHARED_ROLES: ReadonlySet<ClientRole> = new Set(["primary", "thread", "subscriber", "sync"]);

/**
 * The commands of one connection: refused, held while it is down, written through an outbox, timed, and judged when
 * it is lost. Each one settles, and says whether it left this process.
 */
export class Traffic {
  /** What the server remembers of a dedicated connection. */
  readonly session = new Session();
  readonly #handle: Handle;
  readonly #redis: RedisConfig;
  readonly #name: string;
  readonly #role: ClientRole;
  readonly #isShared: boolean;
  readonly #onTimeout: () => void;
  readonly #deadlines: Deadlines;
  readonly #arrival: Arrival;
  #held: Held[] = [];
  /** The newest commands of the queue, which wait in the outbox for the end of this turn. */
  #unsent = 0;
  #flush = (): void => {};
  /** The newest blocking command that was written. */
  #blocker: Timed | undefined;

  constructor(handle: Handle, { redis, name, role, onTimeout }: TrafficOptions) {
    this.#handle = handle;
    this.#redis = redis;
    this.#name = name;
    this.#role = role;
    this.#isShared = SHARED_ROLES.has(role);
    this.#onTimeout = onTimeout;
    this.#deadlines = new Deadlines({
      expire: (expiry) => Math.min(this.#expireWritten(expiry), this.#expireHeld(expiry.cutoff)),
      graceMs: redis.commandTimeoutMs,
      isRef: false, // the socket keeps the loop alive while a reply is owed
    });
    this.#arrival = new Arrival(redis.commandTimeoutMs);
  }

  /** The connection is up: whatever is written to it from now on goes through an outbox. */
  connected(): void {
    this.#flush = sendThroughOutbox(this.#handle.stream, () => (this.#unsent = 0));
  }

  /** What was written leaves at once. */
  flush(): void {
    this.#flush();
  }

  /** Onto the connection, which is up. */
  send(command: QueuedCommand, stream?: CommandStream): unknown {
    const refused = this.#judge(command, stream) ?? this.#waitsInVain(command);
    if (refused) return reject(command, refused);
    if (!this.#isShared) this.session.sent(command);
    this.#timeWritten(command);
    this.#unsent++;
    return this.#handle.transmit(command, stream);
  }

  /** Until it may leave or its deadline has come; while the connection is away, refused at once with `whenDown: "fail"`. */
  hold(command: QueuedCommand, stream: CommandStream, absence?: Absence): unknown {
    const refused = this.#judge(command, stream) ?? (absence && this.#refusedWhileDown(command, absence.why));
    if (refused) return reject(command, refused);
    this.#time(command);
    this.#held.push(asHeld(command, stream));
    return command.promise;
  }

  /** The connection is back: what was held leaves in its order. */
  release(): void {
    const all = this.#held;
    this.#held = [];
    // Their callers hold the commands' own promises; a traced twin has no other ear.
    for (const one of all) {
      if (wasSent(one.command) && dueAt(one) <= monotonic())
        one.command.reject(this.#unfulfilled(one.command, undefined));
      else (one.caller.runInAsyncScope(() => this.send(one.command, one.stream)) as Promise<unknown>).catch(() => {});
    }
  }

  rejectHeld(why: unknown): void {
    const all = this.#held;
    this.#held = [];
    for (const { command } of all) command.reject(this.#unfulfilled(command, why));
  }

  /**
   * ioredis says "Connection is closed." to all alike; here each command learns whether it left this process. Reads
   * that may be repeated are held instead, when the connection is going to come back.
   */
  lost(why: unknown, isComingBack: boolean): void {
    const { commandQueue } = this.#handle;
    if (isComingBack && this.#redis.resend === "readonly") this.#keepReads();
    const firstUnsent = commandQueue.length - this.#unsent;
    for (let i = 0; i < commandQueue.length; i++) {
      const command = commandQueue.peekAt(i)!.command as Timed;
      if (command[DUE_AT] === undefined) continue; // the library's own PING or QUIT
      command.reject(i < firstUnsent ? this.#replyLost(command, why) : this.#notSent(command, why));
    }
    this.#unsent = 0;
    this.session.connectionLost();
  }

  /** Takes them out of ioredis' queue, which it is about to reject as a whole. */
  #keepReads(): void {
    if (!this.session.clean) return; // a read under WATCH or MULTI belongs to what is lost
    const { commandQueue } = this.#handle;
    const queued = commandQueue.toArray();
    const written = queued.length - this.#unsent;
    const now = monotonic();
    const kept: Held[] = [];
    commandQueue.clear();
    queued.forEach((item, i) => {
      const command = item.command as Timed;
      const isInTime = (command[DUE_AT] ?? 0) > now;
      if (i < written && isInTime && isResendable(command, item.stream)) kept.push(asHeld(command, undefined));
      else commandQueue.push(item);
    });
    for (const { command } of kept) markResent(command);
    this.#held = [...kept, ...this.#held];
  }

  /** Something was received, and parsed. */
  received(): void {
    // Where the server speaks unasked, bytes say nothing about a reply.
    if (this.#role === "subscriber" || this.session.tainted) return;
    this.#arrival.received(this.#handle.commandQueue.peekFront()?.command);
  }

  /** A blocking command without an end holds the line: whatever is written behind it waits in vain. */
  get isBlocked(): boolean {
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      if ((commandQueue.peekAt(i)!.command as Timed)[DUE_AT] === Infinity) return true;
    }
    return false;
  }

  /** Whether a caller waits for a reply on the connection; whoever timed out no longer does. */
  get isAwaited(): boolean {
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      if (!(commandQueue.peekAt(i)!.command as Timed).isSettled) return true;
    }
    return false;
  }

  stop(): void {
    this.#deadlines.stop();
  }

  /** Why this pipeline may not run here, if so. */
  refuse(pipeline: readonly QueuedCommand[]): Error | undefined {
    if (!this.#isShared) return undefined;
    let open = 0;
    for (const command of pipeline) {
      const trait = traitOf(command.name);
      if (trait === "multi") open++;
      else if (trait === "exec" || trait === "discard") open--;
      else if (this.#isRefused(command)) return this.needsDedicated(command.name);
    }
    // redis.multi() adds its EXEC only now, so one may be missing; a second one never comes.
    return open > 1 ? this.needsDedicated("multi") : undefined;
  }

  needsDedicated(command: string): NeedsDedicatedError {
    const advice = command === "quit" ? "redthread closes it" : "use withDedicated() for it";
    return new NeedsDedicatedError(
      `${command.toUpperCase()} would spoil ${this.#name}, which others use too: ${advice}`,
      { outcome: "not-sent", command },
    );
  }

  #refusedWhileDown(command: QueuedCommand, why: unknown): Error | undefined {
    if (this.#redis.whenDown === "wait") return undefined;
    return why instanceof CircuitOpenError ? why : this.#notSent(command, why);
  }

  #judge(command: QueuedCommand, stream: CommandStream): Error | undefined {
    // Pipelines were judged as a whole, before their first command came here.
    if (stream === undefined && this.#isRefused(command)) return this.needsDedicated(command.name);
    return this.session.isLost(command) ? this.#transactionLost(command) : undefined;
  }

  /** Only where it leaves: what it waits for may be held before it. */
  #waitsInVain(command: QueuedCommand): Error | undefined {
    if (!this.session.waitsInVain(command)) return undefined;
    return new NotSentError(
      `${nameOf(command)} was not sent: ${this.#name} lost the connection on which what it waits for was done`,
      { outcome: "not-sent", command: command.name },
    );
  }

  #isRefused(command: QueuedCommand): boolean {
    const trait = traitOf(command.name);
    if (trait === "plain") return false;
    if (trait === "quit") return this.#role !== "owned";
    if (!this.#isShared) return false;
    if (trait === "client") return !isSharedClient(command.args);
    if (trait === "wait") return true;
    if (trait === "blocking") return command.extractBlockingTimeout() !== null; // XREAD without BLOCK
    return !(trait === "session" && this.#role === "subscriber");
  }

  #time(command: Timed): void {
    // Held before, here or by another node: its time runs since then.
    command[DUE_AT] ??= monotonic() + this.#redis.commandTimeoutMs;
    this.#deadlines.arm(command[DUE_AT]);
  }

  /** A blocking command has its own timeout besides, and what is written behind it cannot be answered before it is. */
  #timeWritten(command: Timed): void {
    const isBlocking = hasOwnTimeout(command);
    if (!isBlocking && !this.#blocker) return this.#time(command);
    let due = command[DUE_AT] ?? monotonic() + this.#redis.commandTimeoutMs;
    if (this.#blocker?.isSettled) this.#blocker = undefined;
    const blockedUntil = this.#blocker?.[DUE_AT] ?? 0;
    if (blockedUntil < Infinity) due = Math.max(due, blockedUntil);
    if (isBlocking) {
      due += blockingTimeoutMs(command);
      this.#blocker = command;
    }
    command[DUE_AT] = due;
    this.#deadlines.arm(due);
  }

  #expireWritten(expiry: Expiry): number {
    let next = Infinity;
    let timedOut = false;
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      const command = commandQueue.peekAt(i)!.command as Timed;
      const due = command[DUE_AT] ?? Infinity;
      if (command.isSettled) continue;
      const until = due > expiry.cutoff ? due : this.#arrival.until(command, due, expiry);
      if (until > expiry.cutoff) {
        next = Math.min(next, until);
        continue;
      }
      command.reject(this.#timedOut(command));
      timedOut = true;
    }
    if (timedOut) this.#onTimeout();
    return next;
  }

  #expireHeld(now: number): number {
    let next = Infinity;
    // A pipeline goes as a whole: half of it could never be written.
    const due = new Set(this.#held.filter((held) => held.stream && dueAt(held) <= now).map(({ stream }) => stream));
    this.#held = this.#held.filter((held) => {
      const isDue = dueAt(held) <= now || due.has(held.stream);
      if (isDue) held.command.reject(this.#unfulfilled(held.command, undefined));
      else next = Math.min(next, dueAt(held));
      return !isDue;
    });
    return next;
  }

  /** Of a held command, which may have been written to the connection before. */
  #unfulfilled(command: QueuedCommand, why: unknown): Error {
    return wasSent(command) ? this.#replyLost(command, why) : this.#notSent(command, why);
  }

  #notSent(command: QueuedCommand, cause: unknown): NotSentError {
    return new NotSentError(`${nameOf(command)} was not sent: ${this.#name} has no connection`, {
      outcome: "not-sent",
      command: command.name,
      cause,
    });
  }

  #transactionLost(command: QueuedCommand): NotSentError {
    return new NotSentError(
      `${nameOf(command)} was not sent: ${this.#name} lost its connection, and the WATCH or MULTI on it; start over`,
      { outcome: "not-sent", command: command.name },
    );
  }

  #replyLost(command: QueuedCommand, cause: unknown): ReplyLostError {
    return new ReplyLostError(
      `${nameOf(command)} was written and the connection ${this.#name} went before its reply: it may have run`,
      { outcome: "unknown", command: command.name, cause },
    );
  }

  #timedOut(command: QueuedCommand): CommandTimeoutError {
    const { commandTimeoutMs } = this.#redis;
    const limit = hasOwnTimeout(command) ? `its own timeout and ${commandTimeoutMs}` : commandTimeoutMs;
    return new CommandTimeoutError(
      `no reply to ${nameOf(command)} on ${this.#name} within ${limit} ms: it may still run`,
      { outcome: "unknown", command: command.name, commandTimeoutMs },
    );
  }
}

/** Until the deadline of a command that was with a client. */
export function msLeft(command: Timed): number {
  return (command[DUE_AT] ?? Infinity) - monotonic();
}

/** For a blocking command that was redirected: its own timeout begins anew where it is written now. */
export function restartTime(command: Timed): void {
  delete command[DUE_AT];
}

function reject(command: QueuedCommand, error: Error): unknown {
  command.reject(error);
  return command.promise;
}

function hasOwnTimeout({ name }: QueuedCommand): boolean {
  const trait = traitOf(name);
  return trait === "blocking" || trait === "wait";
}

function blockingTimeoutMs(command: QueuedCommand): number {
  if (traitOf(command.name) === "wait") return Number(command.args.at(-1)) || Infinity;
  const ms = command.extractBlockingTimeout();
  return ms === 0 ? Infinity : (ms ?? 0);
}

function dueAt({ command }: Held): number {
  return (command as Timed)[DUE_AT]!;
}

function nameOf(command: QueuedCommand): string {
  return command.name.toUpperCase();
}

function asHeld(command: QueuedCommand, stream: CommandStream): Held {
  return { command, stream, caller: new AsyncResource("redthread.held") };
}
