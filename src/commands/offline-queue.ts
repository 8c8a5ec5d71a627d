import { AsyncResource } from "node:async_hooks";
import { Deadlines } from "../core/clock.js";
import { dueAt, startTime } from "./command-deadlines.js";
import type { QueuedCommand } from "./ioredis.js";
import { commandsOf, type Outgoing } from "./pipelines.js";

interface Held {
  readonly outgoing: Outgoing;
  /** A tracer sees the command as sent by its caller, not by the code that connected. */
  readonly caller: AsyncResource;
}

/** The commands and pipelines that wait for their connection, in their order, each until its deadline. */
export class OfflineQueue {
  readonly #commandTimeoutMs: number;
  readonly #deadlines: Deadlines;
  #held: Held[] = [];

  /** `onDue` is called for each command whose deadline has come. */
  constructor(commandTimeoutMs: number, onDue: (command: QueuedCommand) => void) {
    this.#commandTimeoutMs = commandTimeoutMs;
    this.#deadlines = new Deadlines({
      expire: ({ cutoff }) => this.#expire(cutoff, onDue),
      graceMs: commandTimeoutMs,
      isRef: true, // without a socket nothing else keeps the process alive for these commands
    });
  }

  add(outgoing: Outgoing): void {
    for (const command of commandsOf(outgoing)) this.#deadlines.arm(startTime(command, this.#commandTimeoutMs));
    this.#held.push(asHeld(outgoing));
  }

  /** Adds commands ahead of all others. Their time runs already. */
  addFirst(commands: readonly QueuedCommand[]): void {
    for (const command of commands) this.#deadlines.arm(dueAt(command)!);
    this.#held = [...commands.map(asHeld), ...this.#held];
  }

  /** Empties the queue; `visit` is called in the async context of each caller. */
  release(visit: (outgoing: Outgoing) => void): void {
    this.#deadlines.stop();
    if (this.#held.length === 0) return;
    const all = this.#held;
    this.#held = [];
    for (const { caller, outgoing } of all) caller.runInAsyncScope(visit, undefined, outgoing);
  }

  some(judge: (command: QueuedCommand) => boolean): boolean {
    return this.#held.some(({ outgoing }) => commandsOf(outgoing).some(judge));
  }

  stop(): void {
    this.#deadlines.stop();
  }

  /** Removes what is due, a pipeline as a whole; gives when the next one is due. */
  #expire(now: number, onDue: (command: QueuedCommand) => void): number {
    let next = Infinity;
    this.#held = this.#held.filter(({ outgoing }) => {
      const commands = commandsOf(outgoing);
      const due = dueAt(commands[0]!)!; // the commands of a pipeline are due together
      if (due <= now) commands.forEach(onDue);
      else next = Math.min(next, due);
      return due > now;
    });
    return next;
  }
}

function asHeld(outgoing: Outgoing): Held {
  return { outgoing, caller: new AsyncResource("redthread.held") };
}
