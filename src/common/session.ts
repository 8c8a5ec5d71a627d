import { isHarmlessClient, traitOf } from "./commands.js";
import type { QueuedCommand } from "./handle.js";

/**
 * What a dedicated connection remembers on the server's side. Told of every command as it is sent, it knows what a
 * returned connection needs before the next holder gets it, and what a lost one has lost.
 */
export class Session {
  #watching = false;
  #inTransaction = false;
  #selected = false;
  #tainted = false;
  /** The connection went under a WATCH or MULTI: an EXEC on the next one would not mean what its caller wrote. */
  #broken = false;
  /** Its holder has had something done on this connection. */
  #used = false;
  /** The connection went with what was done on it, and nothing was done on the next one: a WAIT would speak of nothing. */
  #forgotten = false;

  get clean(): boolean {
    return !(this.#watching || this.#inTransaction || this.#selected || this.#tainted || this.#broken);
  }

  /** What it remembers cannot be seen by the next holder's commands, save by an EXEC. */
  get onlyWatches(): boolean {
    return this.#watching && !(this.#inTransaction || this.#selected || this.#tainted || this.#broken);
  }

  get inTransaction(): boolean {
    return this.#inTransaction;
  }

  /** Beyond repair: subscribed, monitoring, re-authenticated or otherwise changed for good. */
  get tainted(): boolean {
    return this.#tainted;
  }

  /** True when a WAIT is for what was done on a connection that is gone: the next one would say that it is safe. */
  waitsInVain(command: QueuedCommand): boolean {
    return this.#forgotten && traitOf(command.name) === "wait";
  }

  /** True when this command belongs to a transaction that was lost with its connection, and must not run. */
  isLost(command: QueuedCommand): boolean {
    if (!this.#broken) return false;
    const trait = traitOf(command.name);
    if (trait === "exec" || trait === "discard" || trait === "unwatch") this.#broken = false;
    return true;
  }

  sent(command: QueuedCommand): void {
    this.#used = true;
    this.#forgotten = false;
    switch (traitOf(command.name)) {
      case "watch":
        this.#watching = true;
        break;
      case "multi":
        this.#inTransaction = true;
        break;
      case "exec":
      case "discard":
        this.#watching = this.#inTransaction = false;
        break;
      case "unwatch":
        this.#watching = false;
        break;
      case "select":
        this.#selected = true;
        break;
      case "session":
      case "quit":
        this.#tainted = true;
        break;
      case "client":
        this.#tainted ||= !isHarmlessClient(command.args);
        break;
      case "plain":
      case "blocking":
      case "wait":
        break;
    }
  }

  /** The server did not forget what it was told to forget. */
  refused(): void {
    this.#tainted = true;
  }

  connectionLost(): void {
    this.#broken ||= this.#watching || this.#inTransaction;
    this.#watching = this.#inTransaction = false;
    this.#forgotten ||= this.#used;
    this.#used = false;
  }

  /** What was done for the last holder is none of the next one's. */
  handedBack(): void {
    this.#used = this.#forgotten = false;
  }

  /** The commands that make the connection as good as new; all must be answered without an error. */
  repairs(db: number): string[][] {
    const commands: string[][] = [];
    if (this.#inTransaction) commands.push(["discard"]);
    else if (this.#watching) commands.push(["unwatch"]);
    if (this.#selected) commands.push(["select", String(db)]);
    return commands;
  }

  repaired(): void {
    this.#watching = this.#inTransaction = this.#selected = this.#broken = false;
  }
}
