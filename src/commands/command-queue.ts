/**
 * The room `commands` holds the commands in flight on one connection. It imports core, config, link and gate, and it alone
 * knows ioredis. A command's way, and where to start reading:
 * `handle.ts` (what users call) → the client around it → `CommandQueue.send` → `admission.ts` (may it run here?) →
 * `command-deadlines.ts` (its time begins) → `wire.ts` (ioredis queues and encodes it) → `write-coalescer.ts` (it leaves).
 * Without a connection it is held in `offline-queue.ts`; `command-errors.ts` says what became of it.
 */
import type { RedisConfig } from "../config/options.js";
import { CircuitOpenError } from "../core/errors.js";
import type { ClientRole } from "../core/names.js";
import { monotonic } from "../core/clock.js";
import { Admission } from "./admission.js";
import { AskedChannels } from "./asked-channels.js";
import { CommandDeadlines, dueAt } from "./command-deadlines.js";
import { CommandErrors, markResent, wasSent } from "./command-errors.js";
import type { Handle } from "./handle.js";
import { type CommandStream, isReadOnly, type QueuedCommand } from "./ioredis.js";
import { OfflineQueue } from "./offline-queue.js";
import { ownWrites } from "./own-writes.js";
import { commandsOf, type ErrorFor, type Outgoing, PipedCommands, rejectOutgoing } from "./pipelines.js";
import { rememberScripts } from "./scripts.js";
import { Session } from "./session.js";
import { type CommandTrait, hasOwnTimeout, traitOf } from "./traits.js";
import { type WriteCoalescer, coalesceWrites } from "./write-coalescer.js";

export interface CommandQueueOptions {
  readonly redis: RedisConfig;
  /** The connection's name, for errors. */
  readonly name: string;
  readonly role: ClientRole;
  /** A written command had no reply by its deadline: the peer may be gone. */
  readonly onTimeout: () => void;
  /** When something was received last, on the monotonic clock. */
  readonly receivedAt: () => number;
  /** Replies could go to the wrong commands: the connection is being destroyed. */
  readonly onOutOfStep: (why: string) => void;
  /** Why there is no connection, as far as is known. */
  readonly whyAway: () => unknown;
}

/**
 * The commands of one connection. They are refused, held while it is down, written together, timed, and judged when the
 * connection is lost. Each command settles, and says whether it left this process.
 */
export class CommandQueue {
  /** What the server remembers of the connection. */
  readonly session: Session;
  readonly errors: CommandErrors;
  readonly channels = new AskedChannels();
  readonly #handle: Handle;
  readonly #options: CommandQueueOptions;
  readonly #admission: Admission;
  readonly #deadlines: CommandDeadlines;
  readonly #held: OfflineQueue;
  /** A pipeline is being written: a command that a listener of ioredis' channels sends meanwhile comes after it. */
  #isPiping = false;
  #coalescer: WriteCoalescer | undefined;

  constructor(handle: Handle, options: CommandQueueOptions) {
    const { redis, name, role, whyAway } = options;
    const { commandTimeoutMs } = redis;
    this.#handle = handle;
    this.#options = options;
    this.session = new Session(redis.db);
    this.errors = new CommandErrors(name, commandTimeoutMs);
    this.#admission = new Admission(handle, this.session, this.errors, role);
    this.#deadlines = new CommandDeadlines(handle, { ...options, commandTimeoutMs, errors: this.errors });
    this.#held = new OfflineQueue(commandTimeoutMs, (command) => {
      this.session.notSent([command]);
      command.reject(this.errors.lost(command, whyAway()));
    });
  }

  /** The connection is up: from now on its writes are coalesced. */
  connected(): void {
    const handle = this.#handle;
    handle.writes = handle.unsent = 0;
    this.#coalescer = coalesceWrites(handle.stream, (writes) => {
      if (writes !== handle.writes) return this.fallOutOfStep("somebody else wrote to its socket");
      handle.unsent = 0;
      return true;
    });
    if (this.#admission.isShared) rememberScripts(handle.stream);
    if (this.#admission.mayAwait) handle.keepSubscriptions();
  }

  /** What was written leaves at once. */
  flush(): void {
    this.#coalescer?.flush();
  }

  /** Why this pipeline may not run here, if so. `ends`: the number of MULTIs whose EXEC is added when it runs. */
  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    return this.#admission.refusePipeline(pipeline, ends);
  }

  /** Writes a command or a pipeline to the open connection. */
  send(outgoing: Outgoing): unknown {
    if (this.#isPiping) return this.hold(outgoing);
    return outgoing instanceof PipedCommands ? this.#sendAll(outgoing) : this.#sendOne(outgoing);
  }

  #sendOne(command: QueuedCommand): unknown {
    const trait = traitOf(command.name);
    const refused = this.#admission.refuse(command, trait, true);
    if (refused) return reject(command, refused);
    this.#prepare(command, trait);
    const { length } = this.#handle.commandQueue;
    try {
      return this.#handle.transmit(command);
    } catch (error) {
      this.#threw([command], length, error);
      return command.promise;
    } finally {
      // Only of a command that waits for an answer: ioredis may have rejected this one.
      if (!(this.#admission.isShared || command.isSettled)) this.session.sent(command, trait);
      this.#stayInStep();
    }
  }

  /** A pipeline is written as a whole or not at all: ioredis writes it once it was given all commands. */
  #sendAll(piped: PipedCommands): unknown {
    const { commands } = piped;
    const errorFor = this.#admission.refuseAll(commands, true);
    if (errorFor) return rejectOutgoing(piped, errorFor);
    for (const command of commands) this.#prepare(command, traitOf(command.name));
    const { length } = this.#handle.commandQueue;
    this.#isPiping = true;
    try {
      this.#handle.transmitAll(piped);
    } catch (error) {
      this.#threw(commands, length, error);
    } finally {
      this.#isPiping = false;
      this.#wrote(commands, length);
    }
    if (this.#handle.stream.writable) this.release();
    return undefined;
  }

  #prepare(command: QueuedCommand, trait: CommandTrait): void {
    if (trait === "subscription") this.channels.sent(command);
    else if (trait === "monitor") this.#handle.expectMonitor(command);
    ownWrites.note?.(this.#handle.stream, command, trait);
    this.#deadlines.start(command);
  }

  /** A command that is too long for a string, or a listener, threw. The commands that were queued by then were sent. */
  #threw(commands: readonly QueuedCommand[], queuedBefore: number, error: unknown): void {
    const queued = this.#handle.commandQueue.length - queuedBefore;
    if (queued === commands.length)
      process.nextTick(() => {
        throw error;
      });
    for (const command of commands.slice(queued)) command.reject(this.errors.notWritten(command, error));
  }

  #wrote(commands: readonly QueuedCommand[], queuedBefore: number): void {
    const queued = this.#handle.commandQueue.length - queuedBefore;
    // A shared client has no session, because each of its pipelines ends what it begins.
    if (!this.#admission.isShared)
      for (const command of commands.slice(0, queued)) this.session.sent(command, traitOf(command.name));
    // ioredis was not given the others any more, or has rejected them itself.
    for (let i = queued; i < commands.length; i++) commands[i]!.reject(this.errors.lost(commands[i]!, undefined));
    this.#stayInStep();
  }

  #stayInStep(): void {
    if (this.#coalescer!.writes !== this.#handle.writes) this.fallOutOfStep("commands were queued and not written");
  }

  /** Nobody can tell any more which reply belongs to which command. What has not left yet does not leave. */
  fallOutOfStep(why: string): false {
    const { stream } = this.#handle;
    if (stream.destroyed) return false;
    stream.destroy();
    this.#options.onOutOfStep(why);
    return false;
  }

  /** There is no connection: channels that the command gives up are not subscribed to again. */
  unsubscribe(outgoing: Outgoing): void {
    for (const command of commandsOf(outgoing)) this.channels.notSent(command);
  }

  /** Holds a command until it may leave or its deadline comes. With an absence and `whenDown: "fail"` it is refused at once. */
  hold(outgoing: Outgoing, absence?: { readonly why: unknown }): unknown {
    const errorFor = this.#refuseHeld(outgoing) ?? (absence && this.#refuseWhileDown(absence.why));
    if (errorFor) return rejectOutgoing(outgoing, errorFor);
    this.#held.add(outgoing);
    return outgoing instanceof PipedCommands ? undefined : outgoing.promise;
  }

  /** The connection is back: what was held leaves in its order. */
  release(): void {
    this.#held.release((outgoing) => {
      if (!(outgoing instanceof PipedCommands) && wasSent(outgoing) && dueAt(outgoing)! <= monotonic())
        return outgoing.reject(this.errors.lost(outgoing, undefined));
      this.send(outgoing);
    });
  }

  /** There will be no connection. */
  rejectHeld(why: unknown): void {
    this.#held.release((outgoing) => rejectOutgoing(outgoing, (command) => this.errors.lost(command, why)));
  }

  #refuseHeld(outgoing: Outgoing): ErrorFor | undefined {
    if (outgoing instanceof PipedCommands) return this.#admission.refuseAll(outgoing.commands, false);
    const refused = this.#admission.refuse(outgoing, traitOf(outgoing.name), false);
    return refused && ((): Error => refused);
  }

  #refuseWhileDown(why: unknown): ErrorFor | undefined {
    if (this.#options.redis.whenDown === "wait") return undefined;
    return (command) => {
      this.session.notSent([command]);
      return why instanceof CircuitOpenError ? why : this.errors.lost(command, why);
    };
  }

  /**
   * The connection is gone. ioredis rejects all commands with the same "Connection is closed."; here each one learns
   * whether it left this process. Reads that may be repeated are held instead, if the connection is going to come back.
   */
  lost(why: unknown, isComingBack: boolean): void {
    const { commandQueue } = this.#handle;
    if (isComingBack && this.#options.redis.resend === "readonly") this.#keepReads();
    const firstUnsent = commandQueue.length - this.#handle.unsent;
    for (let i = 0; i < commandQueue.length; i++) {
      const command = this.#queued(i);
      if (dueAt(command) === undefined) continue; // the library's own PING or QUIT
      command.reject(this.errors.lost(command, why, i < firstUnsent));
    }
    this.#handle.unsent = 0;
    this.session.connectionLost();
    this.channels.lost();
  }

  /** Takes the reads out of ioredis' queue, which is about to be rejected as a whole. */
  #keepReads(): void {
    if (!this.session.clean || this.session.isChanging) return; // after a WATCH, MULTI or SELECT a read belongs to what is lost
    const { commandQueue } = this.#handle;
    const queued = commandQueue.toArray();
    const written = queued.length - this.#handle.unsent;
    const now = monotonic();
    const kept: QueuedCommand[] = [];
    commandQueue.clear();
    queued.forEach((item, i) => {
      const command = item.command as QueuedCommand;
      const isInTime = (dueAt(command) ?? 0) > now;
      if (i < written && isInTime && isResendable(command, item.stream)) kept.push(command);
      else commandQueue.push(item);
    });
    for (const command of kept) markResent(command);
    this.#held.addFirst(kept);
  }

  /** A chunk was received, and parsed. */
  received(): void {
    // Where the server speaks unasked, bytes say nothing about a reply.
    if (this.#options.role !== "subscriber" && !this.session.tainted) this.#deadlines.received();
  }

  /** Whether a command with a deadline is under way. The library's own questions have none. */
  get isBusy(): boolean {
    return this.#someQueued(isTimed);
  }

  /** Whether a blocking command without a timeout is under way: the commands behind it wait in vain. */
  get isBlocked(): boolean {
    return this.#someQueued(isEndless);
  }

  /** Whether a blocking command is under way, or held. */
  get isBlocking(): boolean {
    return this.#someQueued(isBlocking) || this.#held.some(hasOwnTimeout);
  }

  /** Whether a caller waits for a reply on the connection. A caller whose command has timed out no longer does. */
  get isAwaited(): boolean {
    return this.#someQueued(isPending);
  }

  stop(): void {
    this.#deadlines.stop();
    this.#held.stop();
  }

  #someQueued(judge: (command: QueuedCommand) => boolean): boolean {
    const { length } = this.#handle.commandQueue;
    for (let i = 0; i < length; i++) if (judge(this.#queued(i))) return true;
    return false;
  }

  /** The commands that wait for a reply, from the oldest on. */
  #queued(index: number): QueuedCommand {
    return this.#handle.commandQueue.peekAt(index)!.command as QueuedCommand;
  }
}

/**
 * Whether a written command may be written once more: it is a read by ioredis' own table, it does not block, it is not in
 * a pipeline or transaction whose other half may have run, and this is its first loss.
 */
function isResendable(command: QueuedCommand, stream: CommandStream): boolean {
  if (stream !== undefined || command.isSettled || wasSent(command)) return false;
  return traitOf(command.name) === "plain" && isReadOnly(command.name);
}

// What is asked of each command in the queue, often for each new one: functions of their own, so that none is allocated.

function isTimed(command: QueuedCommand): boolean {
  return dueAt(command) !== undefined;
}

function isEndless(command: QueuedCommand): boolean {
  return dueAt(command) === Infinity;
}

function isPending(command: QueuedCommand): boolean {
  return !command.isSettled;
}

function isBlocking(command: QueuedCommand): boolean {
  return isPending(command) && hasOwnTimeout(command);
}

/** A function of its own, because a closure in `#sendOne` would be allocated for each command. */
function reject(command: QueuedCommand, error: Error): unknown {
  command.reject(error);
  return command.promise;
}
