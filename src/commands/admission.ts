import type { ClientRole } from "../core/names.js";
import type { CommandErrors } from "./command-errors.js";
import type { Handle } from "./handle.js";
import type { QueuedCommand } from "./ioredis.js";
import type { ErrorFor } from "./pipelines.js";
import type { Session } from "./session.js";
import { type CommandTrait, isSharedClient, traitOf } from "./traits.js";

const SHARED_ROLES: ReadonlySet<ClientRole> = new Set(["primary", "thread", "subscriber", "sync", "keeper"]);

const BEGUN_BEFORE =
  "ioredis looks in the pipeline for what was queued, and its MULTI is not there: use exec() of the client";

const IN_SUBSCRIBER_MODE: ReadonlySet<string> = new Set(["ping", "quit"]);

const NEVER: Readonly<Record<string, string>> = {
  auth: "redthread logs in, with redis.username and redis.password or with redis.credentials",
  reset: "it would change the protocol under the client; a lease that is given back is as new",
};
const REPLICATION = "it makes the connection a replica's, which answers no commands";

/**
 * Decides which commands may run on a connection. A command is refused for one of three reasons:
 * - no client may run it here, because replies could not be told apart (`#reason`: COMMAND_REFUSED);
 * - on a shared client it would disturb the other users (`#disturbs`: NEEDS_DEDICATED);
 * - it relies on a WATCH, MULTI or write of a connection that was lost (`#refuseForLoss`: NOT_SENT).
 * Only these are decided elsewhere: the end of a shared client (`Client.refuseEnd`), and what has no one node in a Cluster
 * (`cluster/commands.ts`).
 */
export class Admission {
  readonly isShared: boolean;
  /** Messages, and replicas: no command of a user stands behind. */
  readonly mayAwait: boolean;
  readonly #handle: Handle;
  readonly #session: Session;
  readonly #errors: CommandErrors;

  constructor(handle: Handle, session: Session, errors: CommandErrors, role: ClientRole) {
    this.#handle = handle;
    this.#session = session;
    this.#errors = errors;
    this.isShared = SHARED_ROLES.has(role);
    this.mayAwait = !this.isShared || role === "subscriber" || role === "keeper";
  }

  /** Why this command may not run, if so. `isLeaving`: it is written now, not held for later. */
  refuse(command: QueuedCommand, trait: CommandTrait, isLeaving: boolean): Error | undefined {
    if (trait === "plain" && (this.isShared || this.#session.isOrdinary)) return undefined;
    const reason = this.#reason(command, this.#session.inTransaction, false);
    if (reason !== undefined) return this.#errors.refused(command, reason);
    if (this.#disturbs(command, trait)) return this.#errors.needsDedicated(command.name);
    return this.#refuseForLoss([command], isLeaving)?.(command);
  }

  /** Why this pipeline may not run, if so. `ends`: how many of its MULTIs get their EXEC only when it runs. */
  refusePipeline(pipeline: readonly QueuedCommand[], ends: number): Error | undefined {
    const errors = this.#errors;
    let { inTransaction } = this.#session;
    let isBegunBefore = inTransaction;
    for (const command of pipeline) {
      const trait = traitOf(command.name);
      const isPlain = trait === "plain" && (this.isShared || this.#session.isOrdinary);
      if (isPlain && (command.reject as unknown)) continue;
      const reason = this.#reason(command, inTransaction, true);
      if (reason !== undefined) return errors.refused(command, reason);
      if (trait === "exec" && isBegunBefore) return errors.refused(command, BEGUN_BEFORE);
      const isBegin = trait === "multi" && !inTransaction;
      // On a shared client only EXEC ends one: a user without the right to DISCARD would leave it open for all.
      const isEnd = inTransaction && (trait === "exec" || (trait === "discard" && !this.isShared));
      // The server rejects a MULTI or EXEC with an argument: the commands between would run one by one, or not at all.
      const isPair = (isBegin || isEnd) && command.args.length === 0;
      if (!isPair && this.#disturbs(command, trait)) return errors.needsDedicated(command.name);
      inTransaction = (inTransaction && !isEnd) || isBegin;
      isBegunBefore &&= inTransaction;
    }
    return this.isShared && inTransaction && ends === 0 ? errors.needsDedicated("multi") : undefined;
  }

  /** Why an admitted pipeline may not be sent, if so: its connection may have been lost since it was admitted. */
  refuseAll(commands: readonly QueuedCommand[], isLeaving: boolean): ErrorFor | undefined {
    if (this.isShared) return undefined;
    for (const one of this.#session.isOrdinary ? [] : commands) {
      const reason = this.#reason(one, this.#session.inTransaction, true);
      if (reason !== undefined) return (command) => this.#errors.refused(command, reason);
    }
    return this.#refuseForLoss(commands, isLeaving);
  }

  #refuseForLoss(commands: readonly QueuedCommand[], isLeaving: boolean): ErrorFor | undefined {
    if (this.#session.takesLoss(commands)) return (command) => this.#errors.transactionLost(command);
    if (isLeaving && this.#session.waitsInVain(commands[0]!)) return (command) => this.#errors.waitsInVain(command);
    return undefined;
  }

  /** Why no client may run this command here, if so: its replies, or the replies of others, could not be told apart. */
  #reason(command: QueuedCommand, inTransaction: boolean, isPiped: boolean): string | undefined {
    if (this.#session.isMonitoring)
      return "the connection is monitoring, where everything that comes is a line of MONITOR";
    const { name, args } = command;
    if (!(command.reject as unknown)) return "an argument of it has no text";
    const trait = traitOf(name);
    const isSubscriber = this.#handle.mode === "subscriber"; // with RESP2 only
    if (isSubscriber && trait !== "subscription" && !IN_SUBSCRIBER_MODE.has(name.toLowerCase()))
      return "the connection is subscribed, and with RESP2 runs nothing else then";
    switch (trait) {
      case "never":
        if (name in Object.prototype) return "there is no such command, and ioredis takes it for something of its own";
        return NEVER[name.toLowerCase()] ?? REPLICATION;
      case "hello":
        return args.length > 0 ? "redthread says it, when it connects" : undefined;
      case "client":
        return isSubcommand(args, "reply")
          ? "without a reply to each command the other replies go to the wrong commands"
          : undefined;
      case "script":
        return isSubcommand(args, "debug") ? "the debugger stops the connection, and stays with it" : undefined;
      case "subscription":
        return inTransaction ? "in a transaction its answers come between the replies to other commands" : undefined;
      case "monitor":
        return isPiped || inTransaction ? "its lines would come between the replies to other commands" : undefined;
      case "quit":
        return isPiped ? "use quit() of the client, or disconnect()" : undefined;
      default:
        return undefined;
    }
  }

  /** Whether the command would change a shared connection for its other users, or keep it from them. */
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
        return command.extractBlockingTimeout() !== null; // XREAD without BLOCK does not block
      case "subscription":
      case "wait":
        return !this.mayAwait;
      default:
        return true;
    }
  }
}

function isSubcommand(args: readonly unknown[], name: string): boolean {
  return String(args[0]).toLowerCase() === name;
}
