import { AsyncLocalStorage, AsyncResource } from "node:async_hooks";
import { getHeapStatistics } from "node:v8";
import { threadId, type MessagePort, type Transferable } from "node:worker_threads";
import type { RedisHandle } from "../commands/ioredis.js";
import { freezeConfig } from "../config/options.js";
import { Logins } from "../connection/credentials.js";
import { ArrayMap } from "../core/array-map.js";
import { executionChannel, type TraceContext } from "../core/channels.js";
import { ShuttingDownError, TaskNotFoundError } from "../core/errors.js";
import { suggest } from "../core/names.js";
import { type Deferred, deferred, within } from "../core/waiting.js";
import { fromErrorData, toErrorData } from "../link/error-serialization.js";
import { LedgerRow, type NearField } from "../link/ledger.js";
import { type Make, restored } from "../link/crossing.js";
import type { FromThread, TaskList, ThreadData, ToThread } from "../link/protocol.js";
import type { HostEnd } from "../locks/keeper-protocol.js";
import { adopt, adoptNear, currentClients, madeClients, madeNear, ThreadClients } from "./clients.js";
import { ConcurrencyLimiter } from "./concurrency-limiter.js";
import { LogPort } from "./log-port.js";
import { Results } from "./results.js";
import { adoptManaged, closeSync } from "./sync/sync-registry.js";
import { type TaskFunction, type TaskThread, ThreadTask } from "./task.js";
import { exportsOf, loadTasks, type TasksModule, tasksOf } from "./tasks-module.js";

const SAMPLE_MS = 1_000;

/** A thread under its manager: loads the tasks module, runs the tasks that the link brings, and closes when it is told. */
export class Runtime {
  readonly #port: MessagePort;
  readonly #config: ThreadData["redthread"]["config"];
  readonly #nearBuffers: ThreadData["redthread"]["near"];
  readonly #row: LedgerRow;
  readonly #logs: LogPort;
  readonly #thread: TaskThread;
  readonly #logins: Logins | undefined;
  readonly #tasks = new Map<string, TaskFunction>();
  readonly #results = new Results((message, transfer) => this.#postResults(message, transfer));
  /** The tasks that arrived and have not ended, including each that the limiter has not begun. */
  readonly #running = new ArrayMap<ThreadTask>();
  readonly #limiter: ConcurrencyLimiter<ThreadTask>;
  readonly #sampling: NodeJS.Timeout;
  #taskMessages = 0;
  /** Its clients are closed for good. */
  #isClosing = false;
  #module: TasksModule = {};
  /** Knows the task of the running code. Made with the first lock, because it makes promises slower. */
  #scope: AsyncLocalStorage<ThreadTask> | undefined;
  /** The task that took this thread's first lock: it began before the scope was made. */
  #firstToLock: ThreadTask | undefined;
  /** The questions for a port to the keeper's host that the manager has not answered. */
  readonly #keepers: Deferred<HostEnd>[] = [];
  #onIdle: (() => void) | undefined;
  #onClosed!: () => void;
  /** Resolves when the manager's `close` has been carried out. */
  readonly closed = new Promise<void>((resolve) => (this.#onClosed = resolve));

  constructor(
    port: MessagePort,
    { config, ledger, gate, near, hasProvider, taskPrefix }: ThreadData["redthread"],
    row: number,
  ) {
    this.#port = port;
    this.#config = freezeConfig(config);
    this.#nearBuffers = near;
    this.#limiter = new ConcurrencyLimiter(
      config.threads.concurrency,
      () => this.#results.areLong,
      (task, pass) => void this.#run(task, pass),
    );
    this.#row = new LedgerRow(ledger, row);
    this.#logs = new LogPort((message) => this.#post(message), this.#row, config.log.level);
    this.#thread = { logs: this.#logs, taskPrefix, post: (message, transfer) => this.#post(message, transfer) };
    this.#logins = hasProvider ? new Logins((refused) => this.#post({ type: "loginWanted", refused })) : undefined;
    adopt(() => {
      if (this.#isClosing) throw new ShuttingDownError("this thread closes its clients", { outcome: "not-sent" });
      const managed = { row: this.#row, gate, logins: this.#logins, locks: this };
      return new ThreadClients({ config: this.#config, logger: this.#logs.logger, managed });
    });
    adoptManaged({
      config: this.#config,
      ledger,
      gate,
      near,
      row,
      hasProvider,
      giveWay: () => madeClients()?.giveWay(),
      onHelper: (helperPort, area) => this.#post({ type: "helper", port: helperPort, area }, [helperPort]),
    });
    this.#sampling = setInterval(() => this.#sampleHeap(), SAMPLE_MS).unref();
    port.on("message", (message: ToThread) => this.#receive(message));
    port.on("messageerror", () => this.#unreadable());
  }

  /** Loads the tasks module, runs its `setup`, and tells the manager "ready" or "failed". Never rejects. */
  async start(load: (tasks: string) => Promise<TasksModule> = loadTasks): Promise<void> {
    try {
      await this.#openNear();
      this.#module = exportsOf(await load(this.#config.tasks));
      for (const [name, task] of tasksOf(this.#module)) this.#tasks.set(name, task);
      await new AsyncResource("redthread.setup").runInAsyncScope(() => this.#hook("setup"));
      this.#post({ type: "ready" });
    } catch (error) {
      this.#post({ type: "failed", error: toErrorData(error) });
    }
  }

  async #openNear(): Promise<void> {
    const buffers = this.#nearBuffers;
    if (!buffers) return;
    const { openNear } = await import("../near/open-near.js");
    const counter = (field: NearField): (() => void) => this.#row.counter(field);
    adoptNear(openNear({ config: this.#config, buffers, threadId, getRedis: ofThread, counter }));
  }

  #receive(message: ToThread): void {
    this.#row.add("messagesRead", 1);
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
      case "keeper":
        this.#keepers.shift()?.resolve(message);
        break;
      case "keeperFailed":
        this.#keepers.shift()?.reject(fromErrorData(message.error));
        break;
      case "exit":
        process.exit();
        break;
      case "close":
        void this.#close(message.closeMs, message.graceMs);
        break;
    }
  }

  /** The task whose code runs now. If it began before this thread's first lock, it is known only if it was alone then. */
  currentTask(): ThreadTask | undefined {
    if (!this.#scope) {
      this.#scope = new AsyncLocalStorage();
      const [only, ...others] = this.#running.values();
      if (others.length === 0) this.#firstToLock = only;
    }
    const first = this.#firstToLock;
    return this.#scope.getStore() ?? (first && this.#running.get(first.id) === first ? first : undefined);
  }

  /** From the manager. */
  attach(): Promise<HostEnd> {
    const asked = deferred<HostEnd>();
    this.#keepers.push(asked);
    this.#post({ type: "keeperWanted" });
    return asked.promise;
  }

  /** The message had tasks, because all other messages can be read. None has begun, and the manager sends each one alone. */
  #unreadable(): void {
    this.#row.add("messagesRead", 1);
    const message = this.#claim();
    if (message !== undefined) this.#post({ type: "unreadable", message });
  }

  /** The number of the message with tasks that has arrived; undefined if the manager took it back. */
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

  /** Never rejects: a task's failure is sent as its result. */
  async #run(task: ThreadTask, pass: number): Promise<void> {
    const { id, name } = task;
    try {
      const run = this.#tasks.get(name);
      if (!run) throw this.#notFound(name);
      const scope = this.#scope;
      const inScope: TaskFunction = scope ? (input, context) => scope.run(task, run, input, context) : run;
      const result = executionChannel.hasSubscribers ? task.runTraced(inScope) : task.run(inScope);
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
    this.#results.flush(); // no other result can join them
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

  /** Aborts the running tasks and waits `graceMs` for them; then teardown, then the clients, all within `closeMs`. */
  async #close(closeMs: number, graceMs: number): Promise<void> {
    const deadline = performance.now() + closeMs;
    const leftMs = (): number => Math.max(deadline - performance.now(), 1);
    for (const task of this.#running.values()) task.abort("shutdown");
    await this.#step("running tasks", graceMs, () => this.#idle());
    // Half of the time, so that clients can still send QUIT when a teardown hangs.
    await this.#step("teardown", leftMs() / 2, () => this.#hook("teardown"));
    this.#isClosing = true;
    await this.#step("clients", leftMs(), () =>
      Promise.all([madeClients()?.close(leftMs()), closeSync(leftMs(), "for good")]),
    );
    madeNear()?.close();
    clearInterval(this.#sampling);
    this.#results.flush();
    this.#logs.flush();
    // The manager closes the link after it has read all of this. A thread that exits earlier counts as dead.
    this.#port.once("close", () => this.#onClosed());
    this.#post({ type: "closed" });
  }

  /** Each step runs, and ends in time, even if the step before it failed. */
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
    // Log lines go first: they are written in the scope of their task's caller, which is forgotten with the result.
    this.#logs.flush();
    // With a limit the manager judges this thread's heap when it reads the results.
    if (this.#config.threads.maxHeapMb !== undefined) this.#sampleHeap();
    this.#post(message, transfer);
    this.#row.add("answered", 1);
  }

  /** Takes about 1 µs. process.memoryUsage() also asks the kernel, and knows only the whole process. */
  #sampleHeap(): void {
    const { used_heap_size: onHeap, external_memory: outside } = getHeapStatistics();
    this.#row.set("heapMb", (onHeap + outside) / 2 ** 20);
  }
}

async function ofThread(): Promise<RedisHandle> {
  return (await currentClients()).getRedis();
}
