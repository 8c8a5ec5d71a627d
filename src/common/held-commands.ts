import { AsyncResource } from "node:async_hooks";
import { dueAt } from "./due.js";
import type { CommandStream, QueuedCommand } from "./handle.js";

interface Held {
  readonly command: QueuedCommand;
  readonly stream: CommandStream;
  /** For a tracer it is sent by who asked for it, not by who connected. */
  readonly caller: AsyncResource;
}

/** Commands that wait for their connection, in their order. */
export class HeldCommands {
  #held: Held[] = [];

  add(command: QueuedCommand, stream: CommandStream): void {
    this.#held.push(asHeld(command, stream));
  }

  /** Before those that are here. */
  addFirst(commands: readonly QueuedCommand[]): void {
    this.#held.unshift(...commands.map((command) => asHeld(command, undefined)));
  }

  /** All of them leave; `visit` is called on behalf of who asked for each. */
  release(visit: (command: QueuedCommand, stream: CommandStream) => void): void {
    const all = this.#held;
    this.#held = [];
    for (const { caller, command, stream } of all) caller.runInAsyncScope(visit, undefined, command, stream);
  }

  /** Those that are due leave; gives when the next one is. */
  expire(now: number, visit: (command: QueuedCommand) => void): number {
    let next = Infinity;
    // A pipeline goes as a whole: half of it could never be written.
    const due = new Set(
      this.#held.filter((held) => held.stream && dueAt(held.command)! <= now).map(({ stream }) => stream),
    );
    this.#held = this.#held.filter(({ command, stream }) => {
      const isDue = dueAt(command)! <= now || due.has(stream);
      if (isDue) visit(command);
      else next = Math.min(next, dueAt(command)!);
      return !isDue;
    });
    return next;
  }
}

function asHeld(command: QueuedCommand, stream: CommandStream): Held {
  return { command, stream, caller: new AsyncResource("redthread.held") };
}
