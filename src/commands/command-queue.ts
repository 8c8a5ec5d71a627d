import type { RedisConfig } from "../config/options.js";
import { Deadlines, type Expiry, monotonic } from "../core/clock.js";
import { CircuitOpenError } from "../core/errors.js";
import type { ClientRole } from "../core/names.js";
import { Admission, type ErrorFor } from "./admission.js";
import { AskedChannels } from "./asked-channels.js";
import { CommandErrors } from "./command-errors.js";
import { type CommandTrait, traitOf } from "./commands.js";
import { dueAt, DueTimes, hasOwnTimeout } from "./due.js";
import type { Handle } from "./handle.js";
import type { QueuedCommand } from "./ioredis.js";
import { OfflineQueue } from "./offline-queue.js";
import { commandsOf, type Outgoing, PipedCommands, turnAway } from "./outgoing.js";
import { ReplyProgress } from "./reply-progress.js";
import { isResendable, markResent, wasSent } from "./resend.js";
import { rememberScripts } from "./scripts.js";
import { Session } from "./session.js";
import { type WriteCoalescer, coalesceWrites } from "./write-coalescer.js";

export interface CommandQueueOptions {
  readonly redis: RedisConfig;
  /** Of the connection, in errors. */
  readonly name: string;
  readonly role: ClientRole;
  /** A command that was written had no reply by its deadline: is anybody there? */
  readonly onTimeout: () => void;
  /** When something came last, on the monotonic clock. */
  readonly receivedAt: () => number;
  /** Replies could go to the wrong commands: the connection is being destroyed. */
  readonly onOutOfStep: (why: string) => void;
  /** Why there is no connection, as far as is known. */
  readonly whyAway: () => unknown;
}

/** Why there is no connection. */
interface Absence {
  readonly why: unknown;
}

/**
 * The commands of one connection: refused, held while it is down, written through an outbox, timed, and judged when
 * it is lost. Each one settles, and says whether it left this process.
 */
export class CommandQueue {
  /** What the server remembers of the connection. */
  readonly session: Session;
  readonly errors: CommandErrors;
  readonly channels = new AskedChannels();
  readonly #handle: Handle;
  readonly #redis: RedisConfig;
  readonly #role: ClientRole;
  readonly #admission: Admission;
  readonly #onTimeout: () => void;
  readonly #receivedAt: () => number;
  readonly #onOutOfStep: (why: string) => void;
  readonly #deadlines: Deadlines;
  /** Of those that are held, without a socket that would keep the process alive for them. */
  readonly #patience: Deadlines;
  readonly #replyProgress: ReplyProgress;
  readonly #due: DueTimes;
  readonly #held = new OfflineQueue();
  /** A pipeline is being written: what who listens to ioredis' channels sends meanwhile comes after it. */
  #isPiping = false;
  #coalescer: WriteCoalescer | undefined;

  constructor(handle: Handle, options: CommandQueueOptions) {
    const { redis, name, role, onTimeout, receivedAt, onOutOfStep, whyAway } = options;
    this.#handle = handle;
    this.#redis = redis;
    this.session = new Session(redis.db);
    this.errors = new CommandErrors(name, redis.commandTimeoutMs);
    this.#role = role;
    this.#admission = new Admission({ handle, session: this.session, errors: this.errors, role });
    this.#onTimeout = onTimeout;
    this.#receivedAt = receivedAt;
    this.#onOutOfStep = onOutOfStep;
    this.#deadlines = new Deadlines({
      expire: (expiry) => this.#expireWritten(expiry),
      graceMs: redis.commandTimeoutMs,
      isRef: false, // the socket keeps the loop alive while a reply is owed
    });
    this.#patience = new Deadlines({
      expire: ({ cutoff }) => this.#held.expire(cutoff, (held) => this.#turnAway(held, whyAway())),
      graceMs: redis.commandTimeoutMs,
      isRef: true,
    });
    this.#replyProgress = new ReplyProgress(redis.commandTimeoutMs);
    this.#due = new DueTimes(redis.commandTimeoutMs);
  }

  /** The connection is up: whatever is written to it from now on goes through an outbox. */
  connected(): void {
    const handle = this.#handle;
    handle.writes = handle.unsent = 0;
    this.#coalescer = coalesceWrites(handle.stream, (writes) => {
      if (writes !== handle.writes) return this.fallOutOfStep("somebody else wrote to its socket");
      handle.unsent = 0;
      return true;
    });
    if (this.#admission.isShared) rememberScripts(handle.stream);
    if (this.#admission.maySubscribe) handle.keepSubscriptions();
  }

  /** What was written leaves at once. */
  flush(): void {
    this.#coalescer?.flush();
  }

  /** Onto the connection, which is up. */
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
      // Of what waits for an answer: ioredis may have turned it away.
      if (!(this.#admission.isShared || command.isSettled)) this.session.sent(command, trait);
      this.#stayInStep();
    }
  }

  /** As a whole or not at all: ioredis writes a pipeline only once it was given all of it. */
  #sendAll(piped: PipedCommands): unknown {
    const { commands } = piped;
    const errorFor = this.#admission.refuseAll(commands, true);
    if (errorFor) return turnAway(piped, errorFor);
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
    this.#deadlines.arm(this.#due.startWritten(command));
  }

  /** A command that is too long for a string, or a listener: what was queued by then has been sent all the same. */
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
    // Many have no session: what a pipeline of theirs begins it ends.
    if (!this.#admission.isShared)
      for (const command of commands.slice(0, queued)) this.session.sent(command, traitOf(command.name));
    // Those that ioredis was not given any more, or has turned away itself.
    for (let i = queued; i < commands.length; i++) commands[i]!.reject(this.errors.notSent(commands[i]!, undefined));
    this.#stayInStep();
  }

  #stayInStep(): void {
    if (this.#coalescer!.writes !== this.#handle.writes) this.fallOutOfStep("commands were queued and not written");
  }

  /** Nobody can tell which reply is whose any more. What has not left does not leave: each command says so. */
  fallOutOfStep(why: string): false {
    const { stream } = this.#handle;
    if (stream.destroyed) return false;
    stream.destroy();
    this.#onOutOfStep(why);
    return false;
  }

  /** There is no connection: what it gives up is not to be subscribed to again. */
  unsubscribe(outgoing: Outgoing): void {
    for (const command of commandsOf(outgoing)) this.channels.sentInVain(command);
  }

  /** Until it may leave or its deadline has come; while the connection is away, refused at once with `whenDown: "fail"`. */
  hold(outgoing: Outgoing, absence?: Absence): unknown {
    const errorFor = this.#refuseHeld(outgoing) ?? (absence && this.#refusalWhileDown(absence.why));
    if (errorFor) return turnAway(outgoing, errorFor);
    for (const command of commandsOf(outgoing)) this.#patience.arm(this.#due.start(command));
    this.#held.add(outgoing);
    return outgoing instanceof PipedCommands ? undefined : outgoing.promise;
  }

  /** The connection is back: what was held leaves in its order. */
  release(): void {
    this.#patience.stop();
    this.#held.release((outgoing) => {
      if (!(outgoing instanceof PipedCommands) && wasSent(outgoing) && dueAt(outgoing)! <= monotonic())
        return outgoing.reject(this.errors.unfulfilled(outgoing, undefined));
      this.send(outgoing);
    });
  }

  turnAwayClosed(outgoing: Outgoing): unknown {
    return turnAway(outgoing, () => this.errors.closed());
  }

  #turnAway(command: QueuedCommand, why: unknown): void {
    this.session.turnedAway([command]);
    command.reject(this.errors.unfulfilled(command, why));
  }

  rejectHeld(why: unknown): void {
    this.#patience.stop();
    this.#held.release((outgoing) => turnAway(outgoing, (command) => this.errors.unfulfilled(command, why)));
  }

  /**
   * ioredis says "Connection is closed." to all alike; here each command learns whether it left this process. Reads
   * that may be repeated are held instead, when the connection is going to come back.
   */
  lost(why: unknown, isComingBack: boolean): void {
    const { commandQueue } = this.#handle;
    if (isComingBack && this.#redis.resend === "readonly") this.#keepReads();
    const firstUnsent = commandQueue.length - this.#handle.unsent;
    for (let i = 0; i < commandQueue.length; i++) {
      const command = this.#queued(i);
      if (dueAt(command) === undefined) continue; // the library's own PING or QUIT
      command.reject(i < firstUnsent ? this.errors.replyLost(command, why) : this.errors.notSent(command, why));
    }
    this.#handle.unsent = 0;
    this.session.connectionLost();
    this.channels.lost();
  }

  /** Takes them out of ioredis' queue, which it is about to reject as a whole. */
  #keepReads(): void {
    if (!this.session.clean || this.session.isChanging) return; // a read under WATCH or MULTI, or behind a SELECT, belongs to what is lost
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
    for (const command of kept) this.#patience.arm(dueAt(command)!);
    this.#held.addFirst(kept);
  }

  /** Something was received, and parsed. */
  received(): void {
    // Where the server speaks unasked, bytes say nothing about a reply.
    if (this.#role === "subscriber" || this.session.tainted) return;
    this.#replyProgress.received(this.#handle.commandQueue.peekFront()?.command);
  }

  /** Whether something is under way that has a deadline: what the library itself asks has none. */
  get isBusy(): boolean {
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) if (dueAt(this.#queued(i)) !== undefined) return true;
    return false;
  }

  /** A blocking command without an end holds the line: whatever is written behind it waits in vain. */
  get isBlocked(): boolean {
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      if (dueAt(this.#queued(i)) === Infinity) return true;
    }
    return false;
  }

  /** Whether a blocking command is under way, or waits to be. */
  get isBlocking(): boolean {
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      if (!this.#queued(i).isSettled && hasOwnTimeout(this.#queued(i))) return true;
    }
    return this.#held.some(hasOwnTimeout);
  }

  /** Whether a caller waits for a reply on the connection; whoever timed out no longer does. */
  get isAwaited(): boolean {
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      if (!this.#queued(i).isSettled) return true;
    }
    return false;
  }

  stop(): void {
    this.#deadlines.stop();
    this.#patience.stop();
  }

  /** Why this pipeline may not run here, if so. `ends`: MULTIs whose EXEC is added as it runs. */
  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    return this.#admission.refusePipeline(pipeline, ends);
  }

  /** Of the commands that wait for a reply, the oldest first. */
  #queued(index: number): QueuedCommand {
    return this.#handle.commandQueue.peekAt(index)!.command as QueuedCommand;
  }

  #refuseHeld(outgoing: Outgoing): ErrorFor | undefined {
    if (outgoing instanceof PipedCommands) return this.#admission.refuseAll(outgoing.commands, false);
    const refused = this.#admission.refuse(outgoing, traitOf(outgoing.name), false);
    return refused && ((): Error => refused);
  }

  #refusalWhileDown(why: unknown): ErrorFor | undefined {
    if (this.#redis.whenDown === "wait") return undefined;
    return (command) => {
      this.session.turnedAway([command]);
      return why instanceof CircuitOpenError ? why : this.errors.notSent(command, why);
    };
  }

  #expireWritten(expiry: Expiry): number {
    let next = Infinity;
    let timedOut = false;
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      const command = this.#queued(i);
      const due = dueAt(command) ?? Infinity;
      if (command.isSettled) continue;
      const until = due > expiry.cutoff ? due : this.#replyProgress.until(command, due, expiry);
      if (until > expiry.cutoff) {
        next = Math.min(next, until);
        continue;
      }
      const receivedAt = this.#receivedAt();
      const moment = {
        isArriving: this.#replyProgress.isOf(command),
        isAnswering: receivedAt > due - this.#redis.commandTimeoutMs,
        isBehind: receivedAt > due,
        silentMs: Math.round(monotonic() - receivedAt),
        ahead: i,
        blockedMs: Math.max(Math.round(expiry.firedAt - due), 0),
      };
      command.reject(this.errors.timedOut(command, moment));
      timedOut = true;
    }
    if (timedOut) this.#onTimeout();
    return next;
  }
}

/** Apart from where commands pass: what a closure there sees would be allocated for each of them. */
function reject(command: QueuedCommand, error: Error): unknown {
  command.reject(error);
  return command.promise;
}
