import { isReplyError } from "../core/replies.js";
import type { QueuedCommand } from "./ioredis.js";
import { canWrite, type CommandTrait, isSharedClient, traitOf } from "./traits.js";

interface Transaction {
  /** How many commands were queued. */
  size: number;
  /** The queued commands that choose a database. */
  readonly selects: [index: number, db: number][];
}

/** What the server remembers of a connection. */
interface State {
  readonly db: number;
  readonly isWatching: boolean;
  readonly isMonitoring: boolean;
  readonly transaction: Transaction | undefined;
}

/** A command that changes the state, and is not answered yet. */
interface Step {
  readonly command: QueuedCommand;
  readonly trait: CommandTrait;
  readonly transaction: Transaction | undefined;
}

/** Stands for the answer that is hoped for. */
const EXPECTED = Symbol("as expected");

/**
 * What the server remembers of one connection. A session is told of every command that is sent, and of the answers to
 * commands that change something. So it knows the state now, the state once all commands have been carried out, what a
 * returned connection needs before the next holder gets it, and what was lost with a connection.
 */
export class Session {
  readonly #homeDb: number;
  /** By the answers so far. */
  #known: State;
  /** Once all commands that were sent have been carried out. */
  #expected: State;
  /** In the order in which they will be answered. */
  #steps: Step[] = [];
  #tainted = false;
  /** The connection was lost under a WATCH or MULTI: an EXEC on the next one would not mean what its caller wrote. */
  #broken = false;
  /** The command that ends the transaction was rejected unsent, and the loss of the connection is still to be noticed. */
  #isGivenUp = false;
  /** The holder has sent something on this connection. */
  #used = false;
  /** The holder's connection was lost, and the holder has not written on this one: a WAIT would wait for nothing. */
  #forgotten = false;

  /** `db` is the database that a connection is opened with. */
  constructor(db: number) {
    this.#homeDb = db;
    this.#known = this.#expected = fresh(db);
  }

  get clean(): boolean {
    return !this.isWatching && this.#isCleanBesideWatch;
  }

  /** Whether the answer to a command that changes the state is still to come. */
  get isChanging(): boolean {
    return this.#steps.length > 0;
  }

  /** Whether the only trace is a WATCH: of the next holder's commands only an EXEC could see it. */
  get onlyWatches(): boolean {
    return this.isWatching && this.#isCleanBesideWatch;
  }

  get #isCleanBesideWatch(): boolean {
    return !(this.inTransaction || this.#isElsewhere || this.#tainted || this.#broken);
  }

  /** Whether the database is, or will be, another one than at first. */
  get #isElsewhere(): boolean {
    return this.#expected.db !== this.#homeDb || this.#known.db !== this.#homeDb;
  }

  get isWatching(): boolean {
    return this.#expected.isWatching;
  }

  get inTransaction(): boolean {
    return this.#expected.transaction !== undefined;
  }

  /** Whether the connection is monitoring, or about to. */
  get isMonitoring(): boolean {
    return this.#expected.isMonitoring;
  }

  /** The database that the server has confirmed. The next connection selects it. */
  get db(): number {
    return this.#known.db;
  }

  /** Whether a command that changes nothing can run without a closer look: there is no loss, subscription or MONITOR. */
  get isOrdinary(): boolean {
    return !(this.#tainted || this.#broken);
  }

  /** Whether the connection is beyond repair: subscribed, monitoring or otherwise changed for good. */
  get tainted(): boolean {
    return this.#tainted;
  }

  /** Whether this is a WAIT for writes on a connection that is gone: the next connection would answer that they are safe. */
  waitsInVain(command: QueuedCommand): boolean {
    return this.#forgotten && traitOf(command.name) === "wait";
  }

  /** Whether the commands belong to a transaction that was lost, and must not run. The command that ends it ends the loss. */
  takesLoss(commands: readonly QueuedCommand[]): boolean {
    if (!this.#broken) return false;
    this.#broken = !commands.some(({ name }) => endsWatch(traitOf(name)));
    return true;
  }

  sent(command: QueuedCommand, trait: CommandTrait): void {
    this.#isGivenUp = false;
    this.#used = true;
    if (this.#forgotten) this.#forgotten = !canWrite(command);
    const { transaction } = this.#expected;
    if (transaction && isQueued(trait)) {
      if (trait === "select") transaction.selects.push([transaction.size, dbOf(command)]);
      transaction.size++;
    }
    this.#tainted ||= isTainting(trait, command);
    if (!changesState(trait)) return;
    const step = {
      command,
      trait,
      transaction: trait === "multi" ? (transaction ?? { size: 0, selects: [] }) : undefined,
    };
    this.#steps.push(step);
    this.#expected = after(this.#expected, step, EXPECTED);
    // Also if its caller gives the command up: the answer is still to come.
    const { resolve } = command;
    command.resolve = (reply: unknown) => {
      this.answered(command, reply);
      return Reflect.apply(resolve, command, [reply]);
    };
  }

  /** The commands were rejected, because there is no connection. A holder that ends a transaction has no more to lose. */
  notSent(commands: readonly QueuedCommand[]): void {
    const traits = commands.map(({ name }) => traitOf(name));
    const isTransaction = traits.length > 1 && traits.includes("multi"); // its EXEC may be still to be added
    if (!isTransaction && !traits.some(endsWatch)) return;
    this.#isGivenUp = true;
    this.#broken = false;
  }

  /** The server has answered a command, perhaps with an error. */
  answered(command: QueuedCommand, answer: unknown): void {
    const [step] = this.#steps;
    if (step?.command !== command) return; // it changes nothing, or belonged to a connection that is gone
    this.#steps.shift();
    this.#known = after(this.#known, step, answer);
    this.#expected = this.#steps.reduce((state, next) => after(state, next, EXPECTED), this.#known);
  }

  /** From now on the connection is beyond repair. */
  taint(): void {
    this.#tainted = true;
  }

  /** MONITOR was not resumed on the next connection. */
  monitoringEnded(): void {
    this.#become({ ...this.#known, isMonitoring: false });
  }

  connectionLost(): void {
    this.#broken ||= (this.isWatching || this.inTransaction) && !this.#isGivenUp;
    this.#isGivenUp = false;
    const { db, isMonitoring } = this.#known;
    this.#become({ ...fresh(db), isMonitoring });
    this.#forgotten ||= this.#used;
    this.#used = false;
  }

  /** The last holder's writes do not matter to the next holder. */
  handedBack(): void {
    this.#used = this.#forgotten = false;
  }

  /** The commands that make the connection as good as new. All must be answered without an error. */
  get repairs(): string[][] {
    const commands: string[][] = [];
    if (this.inTransaction) commands.push(["discard"]);
    else if (this.isWatching) commands.push(["unwatch"]);
    if (this.#isElsewhere) commands.push(["select", String(this.#homeDb)]);
    return commands;
  }

  repaired(): void {
    this.#become(fresh(this.#homeDb));
    this.#broken = false;
  }

  #become(state: State): void {
    this.#steps = [];
    this.#known = this.#expected = state;
  }
}

function fresh(db: number): State {
  return { db, isWatching: false, isMonitoring: false, transaction: undefined };
}

/** The state after a command was answered. */
function after(state: State, { command, trait, transaction }: Step, answer: unknown): State {
  const isRejected = isReplyError(answer);
  if (trait === "exec" || trait === "discard") {
    // Without a MULTI they change nothing. A rejected EXEC drops the transaction; after a rejected DISCARD it goes on.
    const isWithout = isRejected ? answer.message.includes("without MULTI") : answer === EXPECTED && !state.transaction;
    if (isWithout) return { ...state, transaction: undefined };
    if (isRejected && trait === "discard") return state;
    const left = { ...state, isWatching: false, transaction: undefined };
    return trait === "exec" ? { ...left, db: dbAfter(state, answer) } : left;
  }
  if (isRejected || state.transaction) return state; // in a transaction it was only queued
  switch (trait) {
    case "multi":
      return { ...state, transaction };
    case "watch":
      return { ...state, isWatching: true };
    case "unwatch":
      return { ...state, isWatching: false };
    case "select":
      return { ...state, db: dbOf(command) };
    case "monitor":
      return { ...state, isMonitoring: true };
    default:
      return state;
  }
}

/** The database after an EXEC, which answers once for each command of the transaction. */
function dbAfter({ db, transaction }: State, answer: unknown): number {
  const selects = transaction?.selects ?? [];
  if (answer === EXPECTED) return selects.at(-1)?.[1] ?? db;
  if (!Array.isArray(answer)) return db;
  return selects.findLast(([index]) => String(answer[index]) === "OK")?.[1] ?? db;
}

function changesState(trait: CommandTrait): boolean {
  return trait === "multi" || trait === "watch" || trait === "select" || trait === "monitor" || endsWatch(trait);
}

function endsWatch(trait: CommandTrait): boolean {
  return trait === "exec" || trait === "discard" || trait === "unwatch";
}

/** In a transaction these four are carried out at once, and all others are queued. */
function isQueued(trait: CommandTrait): boolean {
  return trait !== "exec" && trait !== "discard" && trait !== "multi" && trait !== "watch";
}

function isTainting(trait: CommandTrait, command: QueuedCommand): boolean {
  if (trait === "client") return !isSharedClient(command.args);
  return trait === "subscription" || trait === "monitor" || trait === "session";
}

function dbOf(command: QueuedCommand): number {
  return Number(command.args[0]);
}
