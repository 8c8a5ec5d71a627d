import { AsyncResource } from "node:async_hooks";
import { dueAt } from "./due.js";
import type { QueuedCommand } from "./ioredis.js";
import { commandsOf, type Outgoing } from "./outgoing.js";

interface Held {
  readonly outgoing: Outgoing;
  /** For a tracer it is sent by who asked for it, not by who connected. */
  readonly caller: AsyncResource;
}

/** Commands and pipelines that wait for their connection, in their order. */
export class OfflineQueue {
  #held: Held[] = [];

  add(outgoing: Outgoing): void {
    this.#held.push(asHeld(outgoing));
  }

  /** Before those that are here. */
  addFirst(commands: readonly QueuedCommand[]): void {
    this.#held = [...commands.map(asHeld), ...this.#held];
  }

  /** All of them leave; `visit` is called on behalf of who asked for each. */
  release(visit: (outgoing: Outgoing) => void): void {
    if (this.#held.length === 0) return;
    const all = this.#held;
    this.#held = [];
    for (const { caller, outgoing } of all) caller.runInAsyncScope(visit, undefined, outgoing);
  }

  some(judge: (command: QueuedCommand) => boolean): boolean {
    return this.#held.some(({ outgoing }) => commandsOf(outgoing).some(judge));
  }

  /** Those that are due leave, a pipeline as a whole; gives when the next one is. */
  expire(now: number, visit: (command: QueuedCommand) => void): number {
    let next = Infinity;
    this.#held = this.#held.filter(({ outgoing }) => {
      const commands = commandsOf(outgoing);
      const due = dueAt(commands[0]!)!; // those of a pipeline were all given at once
      if (due <= now) commands.forEach(visit);
      else next = Math.min(next, due);
      return due > now;
    });
    return next;
  }
}

function asHeld(outgoing: Outgoing): Held {
  return { outgoing, caller: new AsyncResource("redthread.held") };
}
