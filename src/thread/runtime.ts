import { getHeapStatistics } from "node:v8";
import { threadId, type MessagePort, type Transferable } from "node:worker_threads";
import { fromErrorData, toErrorData, uncloneablePath } from "../common/envelope.js";
import { NotCloneableError, TaskAbortedError, TaskNotFoundError, TaskTimeoutError } from "../common/errors.js";
import { LedgerRow } from "../common/ledger.js";
import type { Logger } from "../common/log.js";
import { Logins } from "../common/logins.js";
import { freezeConfig } from "../common/options.js";
import type { CancelReason, FromThread, ResultMessage, TaskMessage, ThreadData, ToThread } from "../common/protocol.js";
import { within } from "../common/time.js";
import { ThreadClients } from "./clients.js";
import { adopt } from "./current.js";
import { adoptManaged } from "./managed.js";
import { closeSync } from "./sync-helper.js";
import { LogPort } from "./log-port.js";
import { registerTsx } from "./tsx.js";

/** What a task gets beside its input. */
export interface TaskContext {
  /** Aborted when the caller gave up, the task's time is over, or the shutdown can wait no longer. */
  readonly signal: AbortSignal;
  /** Writes through the manager; each line names this task. */
  readonly logger: Logger;
  readonly threadId: number;
  readonly taskId: number;
  /** What the caller passed as `context` to `run`. */
  readonly context: unknown;
}

type Task = (input: unknown, context: TaskContext) => unknown;
type TasksModule = Readonly<Record<string, unknown>>;

/** A result that moves some of its buffers instead of copying them; made by `transfer`. */
export class Transfer {
  readonly value: unknown;
  readonly list: readonly Transferable[];

  constructor(value: unknown, list: readonly Transferable[]) {
    this.value = value;
    this.list = list;
  }
}

const SAMPLE_MS = 1_000;

/** One thread's life under its manager: load the tasks module, run what the link brings, close when told. */
export class Runtime {
  readonly #port: MessagePort;
  readonly #config: ThreadData["redthread"]["config"];
  readonly #row: LedgerRow;
  readonly #logs: LogPort;
  readonly #clients: ThreadClients;
  readonly #logins: Logins | undefined;
  readonly #tasks = new Map<string, Task>();
  readonly #running = new Map<number, RunningTask>();
  #module: TasksModule = {};
  #results: ResultMessage[] = [];
  #onIdle: (() => void) | undefined;
  #onClosed!: () => void;
  /** Settles when the manager's `close` has been carried out. */
  readonly closed = new Promise<void>((resolve) => (this.#onClosed = resolve));

  constructor(port: MessagePort, { config, ledger, gate, hasProvider }: ThreadData["redthread"], row: number) {
    this.#port = port;
    this.#config = freezeConfig(config);
    this.#row = new LedgerRow(ledger, row);
    this.#logs = new LogPort((message) => this.#post(message), this.#row, config.log.level);
    this.#logins = hasProvider ? new Logins((refused) => this.#post({ type: "loginWanted", refused })) : undefined;
    this.#clients = new ThreadClients({
      config: this.#config,
      logger: this.#logs,
      managed: { row: this.#row, gate, slot: row, logins: this.#logins },
    });
    adopt(this.#clients);
    adoptManaged({
      config: this.#config,
      ledger,
      gate,
      slot: row,
      hasProvider,
      onHelper: (helperPort, area) => this.#post({ type: "helper", port: helperPort, area }, [helperPort]),
    });
    this.#startSampling();
    port.on("message", (message: ToThread) => this.#receive(message));
  }

  /** Loads the tasks module and runs its `setup`; tells the manager how that went. Never rejects. */
  async start(): Promise<void> {
    try {
      await registerTsx(this.#config.tasks);
      this.#module = (await import(this.#config.tasks)) as TasksModule;
      for (const [name, task] of tasksOf(this.#module)) this.#tasks.set(name, task);
      await (this.#module["setup"] as (() => unknown) | undefined)?.();
      this.#post({ type: "ready" });
    } catch (error) {
      this.#post({ type: "failed", error: toErrorData(error) });
    }
  }

  #receive(message: ToThread): void {
    this.#row.add("heard", 1);
    switch (message.type) {
      case "tasks":
        for (const task of message.tasks) void this.#run(task);
        break;
      case "cancel":
        this.#running.get(message.id)?.abort(message.reason);
        break;
      case "login":
        this.#logins?.came(message.login);
        break;
      case "loginFailed":
        this.#logins?.failed(fromErrorData(message.error));
        break;
      case "exit":
        process.exit();
        break;
      case "close":
        void this.#close(message.closeMs, message.graceMs);
        break;
    }
  }

  /** Never rejects: whatever the task does ends in its envelope. */
  async #run(message: TaskMessage): Promise<void> {
    const { id, name, input } = message;
    const running = new RunningTask(message, this.#logs);
    this.#running.set(id, running);
    try {
      const task = this.#tasks.get(name);
      if (!task) throw this.#notFound(name);
      const value = await task(input, running);
      this.#settle({ id, ok: true, value }, name);
    } catch (error) {
      this.#settle({ id, ok: false, error: toErrorData(error) }, name);
    } finally {
      this.#running.delete(id);
      if (this.#running.size === 0) this.#onIdle?.();
    }
  }

  #settle(result: ResultMessage, name: string): void {
    if (result.ok && result.value instanceof Transfer) {
      const { value, list } = result.value;
      this.#postResult({ ...result, value }, name, list);
      return;
    }
    if (this.#results.push(result) > 1) return;
    // The results of a loop turn share a message; one alone waits for no other.
    setImmediate(() => this.#flush());
  }

  #flush(): void {
    const results = this.#results;
    this.#results = [];
    if (results.length === 0) return;
    try {
      this.#post({ type: "results", results });
    } catch {
      // One of them cannot be cloned; alone, each shows whether it is the one.
      for (const result of results) this.#postResult(result, `#${result.id}`);
    }
  }

  #postResult(result: ResultMessage, name: string, transfer: readonly Transferable[] = []): void {
    try {
      this.#post({ type: "results", results: [result] }, transfer);
    } catch (cause) {
      const path = uncloneablePath(result.ok ? result.value : result.error, "result") ?? "its transfer list";
      const error = new NotCloneableError(
        `the result of task ${name} cannot be sent to the main thread: ${path} cannot be cloned or transferred`,
        { path, cause },
      );
      this.#post({ type: "results", results: [{ id: result.id, ok: false, error: toErrorData(error) }] });
    }
  }

  #notFound(name: string): TaskNotFoundError {
    const tasks = [...this.#tasks.keys()];
    return new TaskNotFoundError(`the tasks module exports no task "${name}"; it exports ${tasks.join(", ")}`, {
      outcome: "refused",
      tasks,
    });
  }

  /** What still runs is aborted and has `graceMs`; then teardown, then the clients, all within `closeMs`. */
  async #close(closeMs: number, graceMs: number): Promise<void> {
    const deadline = performance.now() + closeMs;
    const leftMs = (): number => Math.max(deadline - performance.now(), 1);
    for (const task of this.#running.values()) task.abort("shutdown");
    await this.#step("running tasks", graceMs, () => this.#idle());
    // Half, so that a teardown that hangs does not cost the clients their QUIT.
    await this.#step("teardown", leftMs() / 2, () => (this.#module["teardown"] as (() => unknown) | undefined)?.());
    await this.#step("clients", leftMs(), () =>
      Promise.all([this.#clients.close(leftMs()), closeSync(leftMs(), "for good")]),
    );
    this.#flush();
    this.#logs.flush();
    // The manager hangs up once it has heard all of this; a thread that went first would count as dead.
    this.#port.once("close", () => this.#onClosed());
    this.#post({ type: "closed" });
  }

  /** Every step is run, and each has an end, whatever became of the one before. */
  async #step(name: string, ms: number, step: () => unknown): Promise<void> {
    try {
      await within(Promise.resolve().then(step), ms, () => new Error(`not done within ${Math.round(ms)} ms`));
    } catch (error) {
      this.#logs.warn(`thread ${threadId} closes: ${name} failed`, { error });
    }
  }

  #idle(): Promise<void> | undefined {
    return this.#running.size === 0 ? undefined : new Promise((resolve) => (this.#onIdle = resolve));
  }

  #post(message: FromThread, transfer: readonly Transferable[] = []): void {
    if (message.type === "results") this.#sampleHeap(); // the manager judges this thread when it reads them
    this.#port.postMessage(message, transfer as Transferable[]);
  }

  /** About 1 µs, where process.memoryUsage() asks the kernel too. */
  #sampleHeap(): void {
    this.#row.set("heapMb", getHeapStatistics().used_heap_size / 2 ** 20);
  }

  #startSampling(): void {
    let last = performance.eventLoopUtilization();
    const sample = (): void => {
      const now = performance.eventLoopUtilization();
      this.#row.set("loopBusy", performance.eventLoopUtilization(now, last).utilization);
      last = now;
      this.#sampleHeap();
    };
    setInterval(sample, SAMPLE_MS).unref();
  }
}

/** A task under way, and its context: signal and logger are made when somebody asks for them. */
class RunningTask implements TaskContext {
  readonly threadId = threadId;
  readonly taskId: number;
  readonly context: unknown;
  readonly #name: string;
  readonly #logs: LogPort;
  #controller: AbortController | undefined;
  #abortReason: Error | undefined;
  #logger: Logger | undefined;

  constructor({ id, name, context }: TaskMessage, logs: LogPort) {
    this.taskId = id;
    this.context = context;
    this.#name = name;
    this.#logs = logs;
  }

  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.#abortReason) this.#controller.abort(this.#abortReason);
    }
    return this.#controller.signal;
  }

  get logger(): Logger {
    const { taskId, context } = this;
    return (this.#logger ??= this.#logs.child({
      task: this.#name,
      taskId,
      threadId,
      ...(context === undefined ? {} : { context }),
    }));
  }

  abort(reason: CancelReason): void {
    this.#abortReason ??= abortError(reason, this.#name);
    this.#controller?.abort(this.#abortReason);
  }
}

function abortError(reason: CancelReason, name: string): Error {
  if (reason === "timeout") return new TaskTimeoutError(`task ${name} did not settle in time`);
  const who = reason === "shutdown" ? "the shutdown" : "its caller";
  return new TaskAbortedError(`task ${name} was given up by ${who}`);
}

/** The functions a module exports, except the two that are ours to call; those of a CommonJS module sit in its default. */
function tasksOf(module: TasksModule): [string, Task][] {
  const { default: fallback, ...named } = module;
  const exported = Object.keys(named).length === 0 && typeof fallback === "object" ? { ...fallback } : named;
  return Object.entries(exported).filter(
    (entry): entry is [string, Task] =>
      typeof entry[1] === "function" && entry[0] !== "setup" && entry[0] !== "teardown",
  );
}
