import { type Callback, type CommandStream, type QueuedCommand, withCallback } from "./ioredis.js";

/** The commands of a pipeline. They go to their connection as a whole, or not at all. */
export class PipedCommands {
  readonly commands: QueuedCommand[] = [];
  /** ioredis writes the pipeline to this stream, once it was given all commands. */
  stream: CommandStream;
}

/** What a handle sends. */
export type Outgoing = QueuedCommand | PipedCommands;

export function commandsOf(outgoing: Outgoing): readonly QueuedCommand[] {
  return outgoing instanceof PipedCommands ? outgoing.commands : [outgoing];
}

/** What each command of a pipeline is rejected with. */
export type ErrorFor = (command: QueuedCommand) => Error;

/** Rejects each command. Gives what its sender returns to ioredis. */
export function rejectOutgoing(outgoing: Outgoing, errorFor: ErrorFor): unknown {
  for (const command of commandsOf(outgoing)) command.reject(errorFor(command));
  return outgoing instanceof PipedCommands ? undefined : outgoing.promise;
}

/** Decides what becomes of a pipeline. */
export interface PipelineOwner {
  /** Runs the pipeline later, if the positions of its keys are not known yet. */
  delay<T>(pipeline: readonly QueuedCommand[], run: () => Promise<T>): Promise<T> | undefined;
  /** Why this pipeline may not run here, if so. `ends`: the number of MULTIs whose EXEC is added when it runs. */
  refuse(pipeline: readonly QueuedCommand[], ends: number): Error | undefined;
}

/** What ioredis' pipelines have beyond their types. */
interface Internals {
  _queue: QueuedCommand[];
  _result: unknown[];
  /** The number of MULTIs whose EXEC is still to be queued. */
  readonly _transactions: number;
  promise: unknown;
  resolve: unknown;
  reject: unknown;
  exec(...args: [callback?: Callback]): unknown;
}

/** All pipelines of a handle. There is one object for all, because a pipeline's own would be kept with it (see `guard`). */
export class Pipelines {
  readonly #owner: PipelineOwner;
  readonly #send: (piped: PipedCommands) => unknown;
  /** The pipeline whose commands ioredis hands over in this very moment. */
  #running: PipedCommands | undefined;

  constructor(owner: PipelineOwner, send: (piped: PipedCommands) => unknown) {
    this.#owner = owner;
    this.#send = send;
  }

  /** ioredis hands over a command of the pipeline that runs. */
  add(command: QueuedCommand, stream: NonNullable<CommandStream>): void {
    if (!this.#running) throw new TypeError("a pipeline runs by its own exec()");
    this.#running.commands.push(command);
    this.#running.stream = stream;
  }

  /**
   * From now on the pipeline is refused as a whole, before a byte of it is written; it runs once, and then drops its
   * commands and their replies. Otherwise they would live until the next full collection: ioredis defines `length` as an
   * accessor, whose pair V8 allocates in the old generation (`Factory::NewAccessorPair`), and a scavenge keeps all that its
   * getter sees. Without them 100 GETs take half the CPU, and a fifth of the p99.
   */
  guard<Pipeline>(pipeline: Pipeline): Pipeline {
    const internals = pipeline as Internals;
    const isTransaction = Object.hasOwn(internals, "exec"); // redis.multi() gives it its own exec()
    const exec = internals.exec.bind(internals);
    let hasRun = false;
    let isDelayed = false;
    const run = (...args: [callback?: Callback]): Promise<unknown> => {
      const refused = this.#owner.refuse(internals._queue, internals._transactions);
      if (refused) return withCallback(Promise.reject(refused), ...args);
      hasRun = true;
      const running = this.#gather(() => exec(...args)) as Promise<unknown>;
      const letGo = (): void => forget(internals);
      running.then(letGo, letGo);
      return running;
    };
    internals.exec = (...args) => {
      // This EXEC ends a transaction inside the pipeline. A callback `undefined` would become an argument of it.
      if (!isTransaction && internals._transactions > 0) return exec(...args);
      if (hasRun || isDelayed) return withCallback(Promise.reject(ranBefore()), ...args);
      const { length } = internals._queue;
      const delayed = this.#owner.delay(internals._queue, () => {
        internals._queue.length = length; // what was added after exec() comes too late
        return run();
      });
      if (!delayed) return run(...args);
      isDelayed = true;
      delayed.catch(() => (isDelayed = false)); // perhaps it has not run, and may be run again
      return withCallback(delayed, ...args);
    };
    return pipeline;
  }

  /** During `run` ioredis hands over one command after the other; at its end they are sent as a whole. */
  #gather<T>(run: () => T): T {
    const outer = this.#running; // a listener of ioredis' diagnostics channels may run a pipeline inside another
    const piped = (this.#running = new PipedCommands());
    try {
      const running = run();
      if (piped.commands.length > 0) this.#send(piped);
      return running;
    } finally {
      this.#running = outer;
    }
  }
}

/** In a batch an EXEC without a MULTI would run the pipeline before its caller can: it becomes an ordinary command. */
export function withEndings(commands: readonly unknown[][], open: number): unknown[][] {
  let left = open;
  return commands.map(([name, ...args]) => {
    if (name === "multi") left++;
    if (name !== "exec" && name !== "execBuffer") return [name, ...args];
    return left-- > 0 ? [name, ...args] : ["call", "exec", ...args];
  });
}

function ranBefore(): Error {
  return new TypeError("this pipeline has run, and its commands would run a second time: make another one");
}

function forget(internals: Internals): void {
  const { length } = internals._queue;
  internals._queue = [];
  internals._queue.length = length; // the pipeline's `length` may be read afterwards
  internals._result = [];
  internals.promise = internals.resolve = internals.reject = undefined;
}
