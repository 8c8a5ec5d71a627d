import { MessageChannel, threadId } from "node:worker_threads";
import { loadConfig } from "./config/env.js";
import type { Config, ConnectOptions, RedisOptions } from "./config/options.js";
import { type Outcome, ShuttingDownError, TaskAbortedError, ThreadStartFailedError } from "./core/errors.js";
import { type Logger, noopLogger } from "./core/log.js";
import { UNREAD_MS } from "./core/clock.js";
import { deferred, waitAtMost, within } from "./core/waiting.js";
import { ConnectGate } from "./gate/connect-gate.js";
import { fromErrorData } from "./link/error-serialization.js";
import { Ledger, LedgerTotals } from "./link/ledger.js";
import { Dispatcher } from "./main/dispatch/dispatcher.js";
import { TaskMap } from "./main/dispatch/task-map.js";
import { badRunOptions } from "./main/dispatch/task-run.js";
import type { AnyTasks } from "./main/dispatch/task-types.js";
import { Locks } from "./main/locks.js";
import type { ConnectionManager } from "./main/manager.js";
import { MainNear } from "./main/near.js";
import { collectStats, type Stats } from "./main/observe/stats.js";
import { type OpenMessage, Thread } from "./main/threads/thread.js";
import { closeCurrent, disown } from "./thread/clients.js";
import { Runtime } from "./thread/runtime.js";
import type { TasksModule } from "./thread/tasks-module.js";

export * from "./core/errors.js";

/** The options of a manager, except for the options of threads and their number. */
export interface InProcessOptions extends Omit<ConnectOptions, "connections" | "primary" | "redis" | "threads"> {
  readonly redis?: Omit<RedisOptions, "credentials"> | undefined;
}

let open: InProcess<object> | undefined;

/**
 * Runs a tasks module in the calling thread, with `setup`, `teardown` and Redis as in a thread, so that a test can set
 * breakpoints and mock what the tasks import. Input, result and errors are cloned as between threads. `tasks` is the module
 * itself (in Jest and Vitest: as they loaded it), or its file URL or absolute path. A thread has one at a time, and its cached
 * clients are closed first.
 * @throws REDTHREAD_CONFIG_INVALID, and REDTHREAD_THREAD_START_FAILED with what the module or its `setup` threw as cause
 */
export async function runInProcess<Tasks extends object = AnyTasks>(
  tasks: URL | string,
  options?: InProcessOptions,
): Promise<InProcess<Tasks>>;
export async function runInProcess<Tasks extends object>(
  tasks: Tasks,
  options?: InProcessOptions,
): Promise<InProcess<Tasks>>;
export async function runInProcess<Tasks extends object>(
  tasks: URL | string | Tasks,
  options: InProcessOptions = {},
): Promise<InProcess<Tasks>> {
  if (open) throw new Error("runInProcess() is open in this thread already: close() it first");
  const file = asFile(tasks);
  const config = file ? loadConfig({ ...options, tasks: file }, { requireTasks: true }) : loadConfig(options);
  const made = new InProcess<Tasks>(config, options.logger ?? noopLogger, () => (open = undefined));
  open = made;
  await made.start(async () => (file ? await import(config.tasks!) : tasks) as TasksModule);
  return made;
}

/** A tasks module in this thread; made by `runInProcess`. */
export class InProcess<Tasks extends object> implements AsyncDisposable {
  readonly #config: Config;
  readonly #onClosed: () => void;
  readonly #dispatcher: Dispatcher;
  readonly #thread: Thread;
  readonly #ledger = new Ledger(1);
  readonly #totals = new LedgerTotals();
  readonly #gateBuffer: SharedArrayBuffer;
  readonly #gate: ConnectGate;
  readonly #near: MainNear;
  readonly #locks: Locks;
  #hangUp: (() => void) | undefined;
  readonly #ready = deferred();
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(config: Config, logger: Logger, onClosed: () => void) {
    this.#config = config;
    this.#onClosed = onClosed;
    this.#dispatcher = new Dispatcher(0, config, logger); // no manager's id: they count from 1
    this.#thread = new OwnThread(1, this.#ledger.row(0));
    this.#gateBuffer = ConnectGate.buffer(config);
    this.#gate = new ConnectGate(this.#gateBuffer, config, ConnectGate.mainRow(config));
    const gates = { gateBuffer: this.#gateBuffer, gate: this.#gate };
    this.#near = new MainNear(config);
    this.#locks = new Locks({ config, ...gates, credentials: undefined, logger, near: this.#near.buffers });
  }

  /** Resolves at once, because `setup` has run. @throws REDTHREAD_SHUTTING_DOWN */
  async ready(): Promise<void> {
    const refused = this.#refusal();
    if (refused) throw refused;
  }

  /** As the manager's `run`, with the same options and errors, except that a task may go on after its abort. */
  readonly run: ConnectionManager<Tasks>["run"] = (name, ...[input, options = {}]) => {
    const bad = this.#refusal() ?? badRunOptions(name, options);
    return bad ? Promise.reject(bad) : (this.#dispatcher.run(name, input, options) as Promise<never>);
  };

  /** As the manager's `map`. */
  readonly map: ConnectionManager<Tasks>["map"] = (name, inputs, options) =>
    new TaskMap(this.#dispatcher, 1, () => this.#refusal(), name, inputs, options) as never;

  /** The statistics of this one thread, as the manager's. There is no primary client. */
  stats(): Stats {
    return collectStats({
      clients: { primary: { state: "disconnected", ageMs: 0, rotations: 0 }, open: 0 },
      gate: this.#gate,
      maxConnections: undefined,
      dispatcher: this.#dispatcher,
      threads: Object.assign([this.#thread], { died: 0 }),
      totals: this.#totals,
      recycled: 0,
      locks: this.#locks,
      near: this.#near,
      maxDedicated: this.#config.dedicated.max,
      places: 1,
    });
  }

  /**
   * Lets running tasks end, for at most `shutdown.drainMs`, runs `teardown` and closes this thread's clients: no connection
   * is left. Idempotent.
   */
  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal */
  async start(load: () => Promise<TasksModule>): Promise<void> {
    const { shutdown, threads } = this.#config;
    const { startTimeoutMs } = threads;
    try {
      await closeCurrent(shutdown.closeMs);
      void this.#begin().start(load); // never rejects
      const tooLate = (): Error => new Error(`the tasks module was not set up within ${startTimeoutMs} ms`);
      await within(this.#ready.promise, startTimeoutMs, tooLate);
    } catch (cause) {
      await this.close();
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new ThreadStartFailedError(`the tasks could not be set up: ${why}`, { cause });
    }
    this.#thread.becameReady();
    this.#dispatcher.threadReady(this.#thread);
  }

  #refusal(): Error | undefined {
    return (
      this.#closing &&
      new ShuttingDownError("what runInProcess() gave is closed and takes no more work", { outcome: "refused" })
    );
  }

  /** The same code that runs in a thread, at the other end of the same link. */
  #begin(): Runtime {
    const { port1, port2 } = new MessageChannel();
    this.#thread.attached({ threadId, performance }, port2, (message) => this.#receive(message));
    this.#hangUp = () => port2.close();
    const config = { tasks: "", ...this.#config }; // a module that is loaded already has no name
    const { taskPrefix } = this.#dispatcher;
    const shared = { ledger: this.#ledger.buffer, gate: this.#gateBuffer, near: this.#near.buffers };
    return new Runtime(port1, { config, ...shared, hasProvider: false, taskPrefix }, 0);
  }

  #receive(message: OpenMessage): void {
    if (message.type === "ready") this.#ready.resolve();
    else if (message.type === "failed") this.#ready.reject(fromErrorData(message.error));
    else if (message.type === "keeperWanted") void this.#locks.attach(this.#thread);
    // The two others concern a manager: there is no provider of logins, and a sync helper is ended by this thread.
    else if (message.type !== "loginWanted" && message.type !== "helper")
      this.#dispatcher.receive(this.#thread, message);
  }

  async #close(): Promise<void> {
    const { drainMs, closeMs, cancelGraceMs } = this.#config.shutdown;
    const isDrained = await waitAtMost(drainMs, this.#dispatcher.drained(), UNREAD_MS);
    if (!isDrained) this.#dispatcher.giveUp(notWaitedFor);
    if (this.#hangUp) {
      this.#thread.close(closeMs, Math.min(cancelGraceMs, closeMs / 2));
      await this.#thread.answered;
      this.#hangUp();
      this.#dispatcher.threadGone(this.#thread, notWaitedFor("unknown")); // no result of a task that still runs counts
    }
    await this.#locks.close(closeMs);
    disown();
    await closeCurrent(closeMs); // so that the next getRedis() makes a new client
    this.#onClosed();
  }
}

/** The calling thread. To end it would end the process of the tests. */
class OwnThread extends Thread {
  override end(): void {}
}

/** The file, unless `tasks` is the module itself. A URL of another realm counts, too. */
function asFile(tasks: object | string): URL | string | undefined {
  const isFile = typeof tasks === "string" || Reflect.get(tasks, Symbol.toStringTag) === "URL";
  return isFile ? (tasks as URL | string) : undefined;
}

function notWaitedFor(outcome: Outcome, cause?: unknown): TaskAbortedError {
  return new TaskAbortedError("close() could not wait for this task", { outcome, cause });
}
