import { AsyncResource } from "node:async_hooks";
import { getHeapStatistics } from "node:v8";
import { threadId, type MessagePort, type Transferable } from "node:worker_threads";
import { freezeConfig } from "../config/options.js";
import { Logins } from "../connection/logins.js";
import { ArrayMap } from "../core/array-map.js";
import { executionChannel, type TraceContext } from "../core/channels.js";
import { TaskNotFoundError } from "../core/errors.js";
import { suggest } from "../core/suggest.js";
import { within } from "../core/waiting.js";
import { fromErrorData, toErrorData } from "../link/error-serialization.js";
import { LedgerRow } from "../link/ledger.js";
import { type Make, restored } from "../link/make.js";
import type { FromThread, TaskList, ThreadData, ToThread } from "../link/protocol.js";
import { ThreadClients } from "./clients.js";
import { ConcurrencyLimiter } from "./concurrency-limiter.js";
import { adopt } from "./current.js";
import { LogPort } from "./log-port.js";
import { adoptManaged } from "./managed.js";
import { Results } from "./results.js";
import { closeSync } from "./sync/sync-registry.js";
import { runTraced, type TaskFunction, type TaskThread, ThreadTask } from "./task.js";
import { registerTsx } from "./tsx.js";

export type TasksModule = Readonly<Record<string, unknown>>;

const SAMPLE_MS = 1_000;

/** One thread's life under its manager: load the tasks module, run what the link brings, close when told. */
export class Runtime {
  readonly #port: MessagePort;
  readonly #config: ThreadData["redthread"]["config"];
  readonly #row: LedgerRow;
  readonly #logs: LogPort;
  readonly #thread: TaskThread;
  readonly #clients: ThreadClients;
  readonly #logins: Logins | undefined;
  readonly #tasks = new Map<string, TaskFunction>();
  readonly #results = new Results((message, transfer) => this.#postResults(message, transfer));
  /** Those included that have not begun. */
  readonly #running = new ArrayMap<ThreadTask>();
  readonly #limiter: ConcurrencyLimiter<ThreadTask>;
  readonly #sampling: NodeJS.Timeout;
  #taskMessages = 0;
  #module: TasksModule = {};
  #onIdle: (() => void) | undefined;
  #onClosed!: () => void;
  /** Settles when the manager's `close` has been carried out. */
  readonly closed = new Promise<void>((resolve) => (this.#onClosed = resolve));

  constructor(
    port: MessagePort,
    { config, ledger, gate, hasProvider, taskPrefix }: ThreadData["redthread"],
    row: number,
  ) {
    this.#port = port;
    this.#config = freezeConfig(config);
    this.#limiter = new ConcurrencyLimiter({
      concurrency: config.threads.concurrency,
      areLong: () => this.#results.areLong,
      begin: (task, pass) => void this.#run(task, pass),
    });
    this.#row = new LedgerRow(ledger, row);
    this.#logs = new LogPort((message) => this.#post(message), this.#row, config.log.level);
    this.#thread = { logs: this.#logs, taskPrefix, post: (message, transfer) => this.#post(message, transfer) };
    this.#logins = hasProvider ? new Logins((refused) => this.#post({ type: "loginWanted", refused })) : undefined;
    this.#clients = new ThreadClients({
      config: this.#config,
      logger: this.#logs.logger,
      managed: { row: this.#row, gate, logins: this.#logins },
    });
    adopt(this.#clients);
    adoptManaged({
      config: this.#config,
      ledger,
      gate,
      row,
      hasProvider,
      giveWay: () => this.#clients.giveWay(),
      onHelper: (helperPort, area) => this.#post({ type: "helper", port: helperPort, area }, [helperPort]),
    });
    this.#sampling = setInterval(() => this.#sampleHeap(), SAMPLE_MS).unref();
    port.on("message", (message: ToThread) => this.#receive(message));
    port.on("messageerror", () => this.#unreadable());
  }

  /** Loads the tasks module and runs its `setup`; tells the manager how that went. Never rejects. */
  async start(load: (tasks: string) => Promise<TasksModule> = loadTasks): Promise<void> {
    try {
      this.#module = exportsOf(await load(this.#config.tasks));
      for (const [name, task] of tasksOf(this.#module)) this.#tasks.set(name, task);
      await new AsyncResource("redthread.setup").runInAsyncScope(() => this.#hook("setup"));
      this.#post({ type: "ready" });
    } catch (error) {
      this.#post({ type: "failed", error: toErrorData(error) });
    }
  }

  #receive(message: ToThread): void {
    this.#row.add("heard", 1);
    switch (message.type) {
      case "tasks":
        this.#start(message.tasks, message.traces);
        break;
      case "audit":
        this.#audit();
        break;
      case "cancel":
        this.#running.get(message.id)?.abort(message.reason, message.why);
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

  /** It had tasks: whatever else the manager says can be read. None has begun, and the manager sends each alone. */
  #unreadable(): void {
    this.#row.add("heard", 1);
    const message = this.#claim();
    if (message !== undefined) this.#post({ type: "unreadable", message });
  }

  /** The number of the message with tasks that has come; undefined where the manager took it back. */
  #claim(): number | undefined {
    const number = this.#taskMessages;
    this.#taskMessages = (number + 1) | 0;
    return this.#row.claim(number) ? number : undefined;
  }

  #audit(): void {
    this.#results.flush();
    const running = [...this.#running.values()].map(({ id }) => id);
    this.#post({ type: "audited", running, taken: this.#taskMessages, answered: this.#row.get("answered") });
  }

  #start(tasks: TaskList, traces: Readonly<Record<number, TraceContext>> | undefined): void {
    if (this.#claim() === undefined) return;
    for (let i = 0; i < tasks.length; i += 6) {
      const [id, name] = [tasks[i] as number, tasks[i + 1] as string];
      const input = restored(tasks[i + 2], tasks[i + 4] as Make);
      const context = restored(tasks[i + 3], tasks[i + 5] as Make);
      const task = new ThreadTask(id, name, input, context, this.#thread);
      if (traces) task.trace = traces[id];
      this.#running.add(id, task);
      this.#limiter.push(task);
    }
    this.#limiter.open();
  }

  /** Never rejects: whatever the task does ends in its envelope. */
  async #run(task: ThreadTask, pass: number): Promise<void> {
    const { id, name } = task;
    try {
      const run = this.#tasks.get(name);
      if (!run) throw this.#notFound(name);
      const result = executionChannel.hasSubscribers ? runTraced(task, run) : task.run(run);
      const value = await result;
      this.#results.ended(this.#limiter.hasNotWaited(pass));
      this.#results.done(id, value, name);
    } catch (error) {
      this.#results.ended(this.#limiter.hasNotWaited(pass));
      this.#results.failed(id, error);
    } finally {
      this.#limiter.left();
      this.#running.delete(id);
      if (this.#running.size > 0) this.#results.flushLater();
      else this.#idled();
    }
  }

  #idled(): void {
    this.#results.flush(); // no other can join it
    this.#onIdle?.();
  }

  #notFound(name: string): TaskNotFoundError {
    const tasks = [...this.#tasks.keys()];
    const hint = suggest(name, tasks);
    return new TaskNotFoundError(`the tasks module exports no task "${name}"${hint}; it exports ${tasks.join(", ")}`, {
      outcome: "refused",
      tasks,
    });
  }

  #hook(name: "setup" | "teardown"): unknown {
    return (this.#module[name] as (() => unknown) | undefined)?.();
  }

  /** What still runs is aborted and has `graceMs`; then teardown, then the clients, all within `closeMs`. */
  async #close(closeMs: number, graceMs: number): Promise<void> {
    const deadline = performance.now() + closeMs;
    const leftMs = (): number => Math.max(deadline - performance.now(), 1);
    for (const task of this.#running.values()) task.abort("shutdown");
    await this.#step("running tasks", graceMs, () => this.#idle());
    // Half, so that a teardown that hangs does not cost the clients their QUIT.
    await this.#step("teardown", leftMs() / 2, () => this.#hook("teardown"));
    await this.#step("clients", leftMs(), () =>
      Promise.all([this.#clients.close(leftMs()), closeSync(leftMs(), "for good")]),
    );
    clearInterval(this.#sampling);
    this.#results.flush();
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
      this.#logs.logger.warn(`thread ${threadId} closes: ${name} failed`, { error });
    }
  }

  #idle(): Promise<void> | undefined {
    return this.#running.size === 0 ? undefined : new Promise((resolve) => (this.#onIdle = resolve));
  }

  #post(message: FromThread, transfer?: readonly Transferable[]): void {
    if (transfer?.length) this.#port.postMessage(message, transfer);
    else this.#port.postMessage(message);
  }

  #postResults(message: FromThread, transfer: readonly Transferable[]): void {
    // Before them, because a line is written in the context of its task's caller, which is forgotten with the result.
    this.#logs.flush();
    // With a limit the manager judges this thread when it reads them.
    if (this.#config.threads.maxHeapMb !== undefined) this.#sampleHeap();
    this.#post(message, transfer);
    this.#row.add("answered", 1);
  }

  /** Takes about 1 µs. process.memoryUsage() asks the kernel too, and knows only the whole process. */
  #sampleHeap(): void {
    const { used_heap_size: onHeap, external_memory: outside } = getHeapStatistics();
    this.#row.set("heapMb", (onHeap + outside) / 2 ** 20);
  }
}

async function loadTasks(tasks: string): Promise<TasksModule> {
  await registerTsx(tasks);
  return (await import(tasks)) as TasksModule;
}

/** Of a CommonJS module Node may have found some of the names only, or none; all of them are in its default. */
function exportsOf(module: TasksModule): TasksModule {
  const { default: whole, ...named }: Record<string, unknown> = module;
  delete named["module.exports"]; // what Node 24 calls the default besides
  return typeof whole === "object" ? { ...whole, ...named } : named;
}

/** The functions a module exports, except the two that are ours to call, and caches, which are for its tasks. */
function tasksOf(module: TasksModule): [string, TaskFunction][] {
  return Object.entries(module).filter(
    (entry): entry is [string, TaskFunction] =>
      typeof entry[1] === "function" && entry[0] !== "setup" && entry[0] !== "teardown" && !("clear" in entry[1]),
  );
}
