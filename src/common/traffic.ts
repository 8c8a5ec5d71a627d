import { Arrival } from "./arrival.js";
import { CommandErrors } from "./command-errors.js";
import { isSharedClient, traitOf } from "./commands.js";
import { Deadlines } from "./deadlines.js";
import { dueAt, DueTimes } from "./due.js";
import { CircuitOpenError } from "./errors.js";
import type { CommandStream, Handle, QueuedCommand } from "./handle.js";
import { HeldCommands } from "./held-commands.js";
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

/** Why there is no connection. */
interface Absence {
  readonly why: unknown;
}

const SHARED_ROLES: ReadonlySet<ClientRole> = new Set(["primary", "thread", "subscriber", "sync"]);

/**
 * The commands of one connection: refused, held while it is down, written through an outbox, timed, and judged when
 * it is lost. Each one settles, and says whether it left this process.
 */
export class Traffic {
  /** What the server remembers of a dedicated connection. */
  readonly session = new Session();
  readonly errors: CommandErrors;
  readonly #handle: Handle;
  readonly #redis: RedisConfig;
  readonly #role: ClientRole;
  readonly #isShared: boolean;
  readonly #onTimeout: () => void;
  readonly #deadlines: Deadlines;
  readonly #arrival: Arrival;
  readonly #due: DueTimes;
  readonly #held = new HeldCommands();
  /** The newest commands of the queue, which wait in the outbox for the end of this turn. */
  #unsent = 0;
  #flush = (): void => {};

  constructor(handle: Handle, { redis, name, role, onTimeout }: TrafficOptions) {
    this.#handle = handle;
    this.#redis = redis;
    this.errors = new CommandErrors(name, redis.commandTimeoutMs);
    this.#role = role;
    this.#isShared = SHARED_ROLES.has(role);
    this.#onTimeout = onTimeout;
    this.#deadlines = new Deadlines({
      expire: (expiry) =>
        Math.min(
          this.#expireWritten(expiry),
          this.#held.expire(expiry.cutoff, (held) => held.reject(this.errors.unfulfilled(held, undefined))),
        ),
      graceMs: redis.commandTimeoutMs,
      isRef: false, // the socket keeps the loop alive while a reply is owed
    });
    this.#arrival = new Arrival(redis.commandTimeoutMs);
    this.#due = new DueTimes(redis.commandTimeoutMs);
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
    this.#deadlines.arm(this.#due.startWritten(command));
    this.#unsent++;
    return this.#handle.transmit(command, stream);
  }

  /** Until it may leave or its deadline has come; while the connection is away, refused at once with `whenDown: "fail"`. */
  hold(command: QueuedCommand, stream: CommandStream, absence?: Absence): unknown {
    const refused = this.#judge(command, stream) ?? (absence && this.#refusedWhileDown(command, absence.why));
    if (refused) return reject(command, refused);
    this.#deadlines.arm(this.#due.start(command));
    this.#held.add(command, stream);
    return command.promise;
  }

  /** The connection is back: what was held leaves in its order. */
  release(): void {
    this.#held.release((command, stream) => {
      if (wasSent(command) && dueAt(command)! <= monotonic())
        return command.reject(this.errors.unfulfilled(command, undefined));
      // Its caller holds the command's own promise; a traced twin has no other ear.
      (this.send(command, stream) as Promise<unknown>).catch(() => {});
    });
  }

  rejectHeld(why: unknown): void {
    this.#held.release((command) => command.reject(this.errors.unfulfilled(command, why)));
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
      const command = this.#queued(i);
      if (dueAt(command) === undefined) continue; // the library's own PING or QUIT
      command.reject(i < firstUnsent ? this.errors.replyLost(command, why) : this.errors.notSent(command, why));
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
      if (dueAt(this.#queued(i)) === Infinity) return true;
    }
    return false;
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
  }

  /** Why this pipeline may not run here, if so. */
  refuse(pipeline: readonly QueuedCommand[]): Error | undefined {
    if (!this.#isShared) return undefined;
    let open = 0;
    for (const command of pipeline) {
      const trait = traitOf(command.name);
      if (trait === "multi") open++;
      else if (trait === "exec" || trait === "discard") open--;
      else if (this.#isRefused(command)) return this.errors.needsDedicated(command.name);
    }
    // redis.multi() adds its EXEC only now, so one may be missing; a second one never comes.
    return open > 1 ? this.errors.needsDedicated("multi") : undefined;
  }

  /** Of the commands that wait for a reply, the oldest first. */
  #queued(index: number): QueuedCommand {
    return this.#handle.commandQueue.peekAt(index)!.command as QueuedCommand;
  }

  #refusedWhileDown(command: QueuedCommand, why: unknown): Error | undefined {
    if (this.#redis.whenDown === "wait") return undefined;
    return why instanceof CircuitOpenError ? why : this.errors.notSent(command, why);
  }

  #judge(command: QueuedCommand, stream: CommandStream): Error | undefined {
    // Pipelines were judged as a whole, before their first command came here.
    if (stream === undefined && this.#isRefused(command)) return this.errors.needsDedicated(command.name);
    return this.session.isLost(command) ? this.errors.transactionLost(command) : undefined;
  }

  /** Only where it leaves: what it waits for may be held before it. */
  #waitsInVain(command: QueuedCommand): Error | undefined {
    return this.session.waitsInVain(command) ? this.errors.waitsInVain(command) : undefined;
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

  #expireWritten(expiry: Expiry): number {
    let next = Infinity;
    let timedOut = false;
    const { commandQueue } = this.#handle;
    for (let i = 0; i < commandQueue.length; i++) {
      const command = this.#queued(i);
      const due = dueAt(command) ?? Infinity;
      if (command.isSettled) continue;
      const until = due > expiry.cutoff ? due : this.#arrival.until(command, due, expiry);
      if (until > expiry.cutoff) {
        next = Math.min(next, until);
        continue;
      }
      command.reject(this.errors.timedOut(command));
      timedOut = true;
    }
    if (timedOut) this.#onTimeout();
    return next;
  }
}

function reject(command: QueuedCommand, error: Error): unknown {
  command.reject(error);
  return command.promise;
}
