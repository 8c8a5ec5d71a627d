import type { ClientRole } from "../core/names.js";
import type { CommandErrors } from "./command-errors.js";
import { type CommandTrait, isSharedClient, traitOf } from "./commands.js";
import type { Handle } from "./handle.js";
import type { QueuedCommand } from "./ioredis.js";
import { reasonToRefuse } from "./refusals.js";
import type { Session } from "./session.js";

export interface AdmissionOptions {
  readonly handle: Handle;
  readonly session: Session;
  readonly errors: CommandErrors;
  readonly role: ClientRole;
}

/** What each command of a pipeline is turned away with. */
export type ErrorFor = (command: QueuedCommand) => Error;

const SHARED_ROLES: ReadonlySet<ClientRole> = new Set(["primary", "thread", "subscriber", "sync"]);

const BEGUN_BEFORE =
  "ioredis looks in the pipeline for what was queued, and its MULTI is not there: use exec() of the client";

/** Which commands may run on a connection: some on none, some not where others would be disturbed, some not any more. */
export class Admission {
  readonly isShared: boolean;
  readonly maySubscribe: boolean;
  readonly #options: AdmissionOptions;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.isShared = SHARED_ROLES.has(options.role);
    this.maySubscribe = !this.isShared || options.role === "subscriber";
  }

  /** Why this command may not run, if so. `isLeaving`: what it waits for is not held before it. */
  refuse(command: QueuedCommand, trait: CommandTrait, isLeaving: boolean): Error | undefined {
    const { session, errors } = this.#options;
    if (trait === "plain" && (this.isShared || session.isOrdinary)) return undefined;
    const reason = this.#reason(command, session.inTransaction, false);
    if (reason !== undefined) return errors.refused(command, reason);
    if (this.#disturbs(command, trait)) return errors.needsDedicated(command.name);
    return this.#refuseForLoss([command], isLeaving)?.(command);
  }

  /** Why this pipeline may not run, if so, before a command of it is sent. `ends`: MULTIs whose EXEC is added as it runs. */
  refusePipeline(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    const { session, errors } = this.#options;
    let { inTransaction } = session;
    let isBegunBefore = inTransaction;
    for (const command of pipeline) {
      const trait = traitOf(command.name);
      const isPlain = trait === "plain" && (this.isShared || session.isOrdinary);
      if (isPlain && (command.reject as unknown)) continue;
      const reason = this.#reason(command, inTransaction, true);
      if (reason !== undefined) return errors.refused(command, reason);
      if (trait === "exec" && isBegunBefore) return errors.refused(command, BEGUN_BEFORE);
      const isBegin = trait === "multi" && !inTransaction;
      const isEnd = this.#endsTransaction(trait, inTransaction);
      // With an argument the server refuses it: what was to be a transaction would run one by one, or not at all.
      const isPair = (isBegin || isEnd) && command.args.length === 0;
      if (!isPair && this.#disturbs(command, trait)) return errors.needsDedicated(command.name);
      inTransaction = (inTransaction && !isEnd) || isBegin;
      isBegunBefore &&= inTransaction;
    }
    return this.isShared && inTransaction && ends === 0 ? errors.needsDedicated("multi") : undefined;
  }

  /** The same for one that was allowed to run, when it is sent: since then its connection may have been lost. */
  refuseAll(commands: readonly QueuedCommand[], isLeaving: boolean): ErrorFor | undefined {
    const { session, errors } = this.#options;
    if (this.isShared) return undefined;
    for (const one of session.isOrdinary ? [] : commands) {
      const reason = this.#reason(one, session.inTransaction, true);
      if (reason !== undefined) return (command) => errors.refused(command, reason);
    }
    return this.#refuseForLoss(commands, isLeaving);
  }

  /** On a client of many EXEC alone does so for sure: a user who may not DISCARD would leave it open for all. */
  #endsTransaction(trait: CommandTrait, isOpen: boolean): boolean {
    return isOpen && (trait === "exec" || (trait === "discard" && !this.isShared));
  }

  #refuseForLoss(commands: readonly QueuedCommand[], isLeaving: boolean): ErrorFor | undefined {
    const { session, errors } = this.#options;
    if (session.takesLoss(commands)) return (command) => errors.transactionLost(command);
    if (isLeaving && session.waitsInVain(commands[0]!)) return (command) => errors.waitsInVain(command);
    return undefined;
  }

  #reason(command: QueuedCommand, inTransaction: boolean, isPiped: boolean): string | undefined {
    const { handle, session } = this.#options;
    const { isMonitoring } = session;
    return reasonToRefuse(command, {
      isPiped,
      inTransaction,
      isMonitoring,
      isSubscriber: handle.mode === "subscriber",
    });
  }

  #disturbs(command: QueuedCommand, trait: CommandTrait): boolean {
    if (!this.isShared) return false;
    switch (trait) {
      case "plain":
      case "hello":
      case "script":
        return false;
      case "client":
        return !isSharedClient(command.args);
      case "blocking":
        return command.extractBlockingTimeout() !== null; // XREAD without BLOCK
      case "subscription":
        return !this.maySubscribe;
      default:
        return true;
    }
  }
}
