import { isReplyError } from "../core/replies.js";
import { type CommandTrait, isSharedClient, traitOf } from "./commands.js";
import type { QueuedCommand } from "./ioredis.js";
import { canWrite } from "./resend.js";

interface Transaction {
  /** How many commands were queued. */
  size: number;
  /** Which of them choose a database. */
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
  readonly db: number;
  readonly transaction: Transaction | undefined;
}

/** Stands for the answer that is hoped for. */
const EXPECTED = Symbol("as expected");

/**
 * What a connection remembers on the server's side. Told of every command as it is sent and of the answers to those that
 * change something, it knows what is so, what will be once all has been carried out, what a returned connection needs before
 * the next holder gets it, and what a lost one has lost.
 */
export class Session {
  readonly #homeDb: number;
  /** By the answers so far. */
  #known: State;
  /** Once what was sent has been carried out. */
  #expected: State;
  /** In the order in which they will be answered. */
  #steps: Step[] = [];
  #tainted = false;
  /** The connection went under a WATCH or MULTI: an EXEC on the next one would not mean what its caller wrote. */
  #broken = false;
  /** The end of its transaction was turned away while its loss was still to be heard of. */
  #isGivenUp = false;
  /** Its holder has had something done on this connection. */
  #used = false;
  /** The connection went with what was done on it, and nothing was written on the next one: a WAIT would speak of nothing. */
  #forgotten = false;

  /** `db`: that which a connection is opened with. */
  constructor(db: number) {
    this.#homeDb = db;
    this.#known = this.#expected = fresh(db);
  }

  get clean(): boolean {
    return !this.isWatching && this.#isCleanBesideWatch;
  }

  /** Whether the answer to something that changes it is still to come. */
  get isChanging(): boolean {
    return this.#steps.length > 0;
  }

  /** What it remembers cannot be seen by the next holder's commands, save by an EXEC. */
  get onlyWatches(): boolean {
    return this.isWatching && this.#isCleanBesideWatch;
  }

  get #isCleanBesideWatch(): boolean {
    const { db, transaction } = this.#expected;
    return !(transaction || db !== this.#homeDb || this.#known.db !== this.#homeDb || this.#tainted || this.#broken);
  }

  get isWatching(): boolean {
    return this.#expected.isWatching;
  }

  get inTransaction(): boolean {
    return this.#expected.transaction !== undefined;
  }

  /** Or about to. */
  get isMonitoring(): boolean {
    return this.#expected.isMonitoring;
  }

  /** Which the server has confirmed: that of the next connection. */
  get db(): number {
    return this.#known.db;
  }

  /** Nothing stands against a command that changes nothing: no loss, no subscription, no MONITOR. */
  get isOrdinary(): boolean {
    return !(this.#tainted || this.#broken);
  }

  /** Beyond repair: subscribed, monitoring or otherwise changed for good. */
  get tainted(): boolean {
    return this.#tainted;
  }

  /** True when a WAIT is for what was done on a connection that is gone: the next one would say that it is safe. */
  waitsInVain(command: QueuedCommand): boolean {
    return this.#forgotten && traitOf(command.name) === "wait";
  }

  /** True when what is to be sent belongs to a transaction that was lost with its connection, and must not run; its end is the end of that. */
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
      db: trait === "select" ? dbOf(command) : 0,
      transaction: trait === "multi" ? (transaction ?? { size: 0, selects: [] }) : undefined,
    };
    this.#steps.push(step);
    this.#expected = after(this.#expected, step, EXPECTED);
    this.#hear(command);
  }

  /** It is beyond repair from now on. */
  taint(): void {
    this.#tainted = true;
  }

  /** Was not sent, for there is no connection: whoever ends his transaction so has nothing more to lose. */
  turnedAway(commands: readonly QueuedCommand[]): void {
    const traits = commands.map(({ name }) => traitOf(name));
    const isTransaction = traits.length > 1 && traits.includes("multi"); // its EXEC may be still to be added
    if (!isTransaction && !traits.some(endsWatch)) return;
    this.#isGivenUp = true;
    this.#broken = false;
  }

  /** It was not resumed on the next connection. */
  monitoringEnded(): void {
    this.#settle({ ...this.#known, isMonitoring: false });
  }

  connectionLost(): void {
    this.#broken ||= (this.isWatching || this.inTransaction) && !this.#isGivenUp;
    this.#isGivenUp = false;
    const { db, isMonitoring } = this.#known;
    this.#settle({ ...fresh(db), isMonitoring });
    this.#forgotten ||= this.#used;
    this.#used = false;
  }

  /** What was done for the last holder is none of the next one's. */
  handedBack(): void {
    this.#used = this.#forgotten = false;
  }

  /** The commands that make the connection as good as new; all must be answered without an error. */
  get repairs(): string[][] {
    const commands: string[][] = [];
    if (this.inTransaction) commands.push(["discard"]);
    else if (this.isWatching) commands.push(["unwatch"]);
    if (this.#expected.db !== this.#homeDb || this.#known.db !== this.#homeDb)
      commands.push(["select", String(this.#homeDb)]);
    return commands;
  }

  repaired(): void {
    this.#settle(fresh(this.#homeDb));
    this.#broken = false;
  }

  #settle(state: State): void {
    this.#steps = [];
    this.#known = this.#expected = state;
  }

  /** Also of a command whose caller has given it up: its answer is still to come. */
  #hear(command: QueuedCommand): void {
    const { resolve } = command;
    command.resolve = (reply: unknown) => {
      this.answered(command, reply);
      return Reflect.apply(resolve, command, [reply]);
    };
  }

  /** What the server says to a command, an error included. */
  answered(command: QueuedCommand, answer: unknown): void {
    const [step] = this.#steps;
    if (step?.command !== command) return; // it changes nothing, or belonged to a connection that is gone
    this.#steps.shift();
    this.#known = after(this.#known, step, answer);
    this.#expected = this.#steps.reduce((state, next) => after(state, next, EXPECTED), this.#known);
  }
}

function fresh(db: number): State {
  return { db, isWatching: false, isMonitoring: false, transaction: undefined };
}

function after(state: State, { trait, db, transaction }: Step, answer: unknown): State {
  const isRefused = isReplyError(answer);
  if (trait === "exec" || trait === "discard") {
    // Without a MULTI they change nothing, and whoever may not DISCARD goes on with his transaction. A refused EXEC drops it.
    const isWithout = isRefused ? answer.message.includes("without MULTI") : answer === EXPECTED && !state.transaction;
    if (isWithout) return { ...state, transaction: undefined };
    if (isRefused && trait === "discard") return state;
    const left = { ...state, isWatching: false, transaction: undefined };
    return trait === "exec" ? { ...left, db: dbAfter(state, answer) } : left;
  }
  if (isRefused || state.transaction) return state; // or queued
  switch (trait) {
    case "multi":
      return { ...state, transaction };
    case "watch":
      return { ...state, isWatching: true };
    case "unwatch":
      return { ...state, isWatching: false };
    case "select":
      return { ...state, db };
    case "monitor":
      return { ...state, isMonitoring: true };
    default:
      return state;
  }
}

/** A transaction that ran has an answer for each of its commands. */
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

/** In a transaction, where these are carried out at once. */
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
