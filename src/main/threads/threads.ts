// The room of threads: starts them, hands on what they say, replaces them, and ends them. It may import the rooms below
// `main`, but not main/dispatch. Start reading at `Threads`: `#serve` is a thread's whole life, `#receive` gets its messages, and
// `close` and `destroy` end it at the shutdown. thread.ts is one thread with its link. start-limiter.ts and restart-policy.ts
// decide when a thread may start, and thread-credentials.ts gives the threads their logins.
import type { Worker } from "node:worker_threads";
import type { Piscina as ThreadPool } from "piscina";
import { threadEnv } from "../../config/env.js";
import { type ThreadMessage, threadChannel } from "../../core/channels.js";
import type { ThreadStartFailedError } from "../../core/errors.js";
import { errorCode, type Logger } from "../../core/log.js";
import { permissionFlags, requirePackage, threadFile } from "../../core/packages.js";
import { UNREAD_MS, monotonic } from "../../core/clock.js";
import { deferred, type Deferred, waitAtMost } from "../../core/waiting.js";
import { ConnectGate } from "../../gate/connect-gate.js";
import { fromErrorData } from "../../link/error-serialization.js";
import { Ledger, LedgerTotals } from "../../link/ledger.js";
import type { FromHelper, FromThread, Hello, Serve, ThreadData } from "../../link/protocol.js";
import { RestartPolicy } from "./restart-policy.js";
import { StartLimiter } from "./start-limiter.js";
import {
  endOf,
  startFailed,
  Thread,
  threadDied,
  ThreadExit,
  ThreadHelper,
  type OpenMessage,
  type WorkMessage,
} from "./thread.js";
import type { ThreadCredentials } from "./thread-credentials.js";

const { Piscina } = requirePackage<typeof import("piscina")>("piscina");

export interface ThreadsOptions {
  /** The manager's id in the messages of `redthread:thread`. */
  readonly manager: number;
  readonly config: ThreadData["redthread"]["config"];
  readonly taskPrefix: string;
  readonly gateBuffer: SharedArrayBuffer;
  readonly near?: ThreadData["redthread"]["near"];
  readonly gate: ConnectGate;
  readonly logger: Logger;
  readonly credentials: ThreadCredentials | undefined;
  /** The thread of this id has exited: nothing of it runs any more. */
  readonly onExit?: (threadId: number) => void;
  readonly onReady: (thread: Thread) => void;
  readonly onMessage: (thread: Thread, message: WorkMessage) => void;
  readonly onKeeperWanted: (thread: Thread) => void;
  /** A thread that served is gone, expected or not. `reason` becomes its tasks' error. */
  readonly onGone: (thread: Thread, reason: Error) => void;
  /** No thread is left, and the last one could not start: a task that waits for a thread would wait in vain. */
  readonly onAllFailed: (error: Error) => void;
}

/**
 * The threads of a manager. Piscina starts and terminates them: each has one endless job, `serve`, whose rejection is the
 * reason of its death. Everything else travels on the thread's link.
 */
export class Threads {
  static #leaving = 0;
  readonly totals = new LedgerTotals();
  readonly #options: ThreadsOptions;
  readonly #ledger: Ledger;
  readonly #poolOptions: ConstructorParameters<typeof Piscina>[0];
  readonly #threads = new Set<Thread>();
  readonly #startLimiter = new StartLimiter<Thread>();
  readonly #restarts = new RestartPolicy(() => this.startMissing());
  /** One for each living thread: resolves when everything that is due at the thread's end is done. */
  readonly #ends = new Set<Promise<void>>();
  /** One for each thread that was told to terminate and has not exited. */
  readonly #exits = new Set<Promise<unknown>>();
  /** Resolves when all threads are ready. Present while a caller waits for that. */
  #allReady: Deferred<void> | undefined;
  #tokens = 0;
  #died = 0;
  #startFailure: ThreadStartFailedError | undefined;
  #retryStartAt = 0;
  #closing = false;

  constructor(options: ThreadsOptions) {
    // On Deno a thread's first message would end the process: its port has no `on`.
    if ("deno" in process.versions) throw startFailed(new Error("redthread's threads need Node or Bun, not Deno"));
    this.#options = options;
    const { config, taskPrefix, gateBuffer, near, credentials } = options;
    const { count, resourceLimits, execArgv, env } = config.threads;
    this.#ledger = new Ledger(count);
    const hasProvider = credentials !== undefined;
    const data: ThreadData = {
      redthread: { config, ledger: this.#ledger.buffer, gate: gateBuffer, near, hasProvider, taskPrefix },
    };
    this.#poolOptions = {
      filename: threadFile("entry.cjs"),
      minThreads: 0,
      maxThreads: 1,
      concurrentTasksPerWorker: 1,
      recordTiming: false,
      idleTimeout: Infinity,
      // The default parks an idle thread in Atomics.wait: its sockets and messages would not be read.
      atomics: "disabled",
      workerData: data,
      ...(resourceLimits && { resourceLimits }),
      ...(execArgv && { execArgv: [...permissionFlags(), ...execArgv] }),
      ...(env && { env: threadEnv(env) }),
    };
    for (let i = 0; i < count; i++) this.#start();
  }

  /** Whether a thread of this process was told to end and has not: `process.exit()` would wait for it. */
  static get areLeaving(): boolean {
    return Threads.#leaving > 0;
  }

  [Symbol.iterator](): IterableIterator<Thread> {
    return this.#threads.values();
  }

  /** The threads that take tasks. While a thread is recycled there is one more than `threads.count`. */
  get serving(): Thread[] {
    return [...this.#threads].filter(({ state }) => state === "ready");
  }

  /** How many threads ended although nobody had asked them to close. */
  get died(): number {
    return this.#died;
  }

  /** Resolves when every thread is ready. Rejects when a thread could not start, and with `rejectReady`. */
  async ready(): Promise<void> {
    const failure = this.startFailure();
    if (failure) throw failure;
    if (this.serving.length < this.#options.config.threads.count) await (this.#allReady ??= deferred()).promise;
  }

  rejectReady(error: Error): void {
    this.#allReady?.reject(error);
    this.#allReady = undefined;
  }

  /** Why no thread could start. Undefined where a thread lives, and where another try is due: that begins now. */
  startFailure(): ThreadStartFailedError | undefined {
    if (!this.#startFailure || this.#threads.size > 0) return undefined;
    if (monotonic() < this.#retryStartAt) return this.#startFailure;
    this.startMissing();
    return undefined;
  }

  /** Starts the threads that are missing, also the replacement of a thread that is retiring. */
  startMissing(): void {
    while (!this.#closing && this.#isMissingOne) this.#start();
  }

  /** Asks every thread to close. Resolves when all have closed, at the latest after `ms`. */
  async close(ms: number, graceMs: number): Promise<void> {
    this.#closing = true;
    this.#restarts.cancel();
    const threads = [...this.#threads];
    for (const thread of threads) thread.close(ms, graceMs);
    for (const unstarted of this.#startLimiter.stop()) unstarted.closed();
    const closed = Promise.all(threads.map((thread) => thread.answered));
    // `destroy` ends a thread without an answer. An answer that this blocked loop has not read yet waits in the port.
    await waitAtMost(ms, closed, UNREAD_MS);
  }

  /** Terminates every thread that is left, also one in an endless loop. */
  async destroy(): Promise<void> {
    this.#closing = true;
    this.#startLimiter.stop();
    for (const thread of this.#threads) thread.terminate();
    await Promise.all(this.#ends); // each settles within a limit of its own
  }

  /** Resolves when all threads have exited, at the latest after `ms`: execSync() keeps a thread until it returns. */
  async exited(ms: number): Promise<void> {
    await waitAtMost(ms, Promise.all(this.#exits), UNREAD_MS);
  }

  get #isMissingOne(): boolean {
    return this.#staying.length < this.#options.config.threads.count;
  }

  get #staying(): Thread[] {
    return [...this.#threads].filter(({ isRetiring }) => !isRetiring);
  }

  #start(): void {
    const row = this.#ledger.take();
    const token = ++this.#tokens;
    const thread = new Thread(token, this.#ledger.row(row), this.#freePlace());
    this.#threads.add(thread);
    const onEnd = (reason?: unknown): Promise<void> => this.#ended(thread, reason);
    const ended = this.#serve(thread, { serve: token, row })
      .then(onEnd, onEnd)
      .finally(() => this.#ends.delete(ended));
    this.#ends.add(ended);
  }

  /** The first place that no staying thread has: a replacement gets the place of the thread that it replaces. */
  #freePlace(): number {
    const staying = this.#staying;
    let place = 0;
    while (staying.some((thread) => thread.place === place)) place++;
    return place;
  }

  /** Settles at the thread's end. Its life begins when the start limiter lets it. */
  async #serve(thread: Thread, serve: Serve): Promise<void> {
    await this.#startLimiter.turn(thread);
    const { startTimeoutMs } = this.#options.config.threads;
    const pool = this.#poolFor(thread);
    const timer = setTimeout(() => {
      this.#startFailed(thread, new Error(`the tasks module was not loaded and set up within ${startTimeoutMs} ms`));
    }, startTimeoutMs).unref();
    let worker: Worker | undefined;
    let hasThrown = false;
    let exit: ThreadExit | undefined;
    try {
      if (this.#closing) throw new Error("the thread had not been started");
      const over = pool.run(serve);
      [worker] = pool.threads;
      thread.spawned(() => void pool.destroy());
      worker!.once("error", () => (hasThrown = true));
      const { threadId } = worker!;
      worker!.once("exit", (exitCode) => {
        this.#options.onExit?.(threadId);
        exit = new ThreadExit(exitCode);
        // Piscina does not tell of a thread that ends before it has begun its `serve`.
        this.#startFailed(thread, exit);
      });
      await over;
    } catch (reason) {
      throw hasThrown || !exit ? reason : exit;
    } finally {
      clearTimeout(timer);
      this.#startLimiter.done(thread);
      thread.terminate();
      if (worker) this.#awaitExit(worker);
    }
  }

  /**
   * Each thread has a pool of its own. Where Node cannot start a thread, piscina throws but keeps its job. In a common pool
   * another thread would get the job, or its rejection would have no handler, which ends the process.
   */
  #poolFor(thread: Thread): ThreadPool {
    const pool = new Piscina(this.#poolOptions);
    pool.on("message", (message: unknown) => this.#attach(thread, pool, message));
    // Without a listener an error before or after `serve` would end the process.
    pool.on("error", (error: Error) => {
      this.#options.logger.error("thread error", { code: errorCode(error) });
      this.#startFailed(thread, error);
    });
    return pool;
  }

  #awaitExit(worker: Worker): void {
    if (worker.threadId < 0) return; // it has exited
    Threads.#leaving++;
    const exit = new Promise<void>((resolve) => {
      worker.once("exit", () => {
        Threads.#leaving--;
        this.#exits.delete(exit);
        resolve();
      });
    });
    this.#exits.add(exit);
  }

  #attach(thread: Thread, { threads: [worker] }: ThreadPool, message: unknown): void {
    // A user's own parentPort.postMessage comes here too.
    const { hello, port } = (message ?? {}) as Partial<Hello>;
    if (hello !== thread.token || !worker || !port) return;
    thread.attached(worker, port, (received) => this.#receive(thread, received));
    this.#tell("started", thread);
    this.#options.credentials?.attached(thread);
  }

  #receive(thread: Thread, message: OpenMessage): void {
    switch (message.type) {
      case "ready":
        return this.#ready(thread);
      case "failed":
        return this.#startFailed(thread, fromErrorData(message.error));
      case "loginWanted":
        return this.#options.credentials?.wanted(message.refused);
      case "helper":
        return this.#helperStarted(thread, message);
      case "keeperWanted":
        return this.#options.onKeeperWanted(thread);
      default:
        this.#options.onMessage(thread, message);
    }
  }

  #ready(thread: Thread): void {
    this.#startLimiter.done(thread);
    if (!thread.becameReady()) return;
    this.#startFailure = undefined;
    this.#tell("ready", thread);
    this.#options.onReady(thread);
    if (this.serving.length >= this.#options.config.threads.count) {
      this.#allReady?.resolve();
      this.#allReady = undefined;
    }
    // Threads that failed while none served were not replaced.
    if (this.#isMissingOne && !this.#restarts.isRestarting) this.#restarts.restartIn(this.#restarts.delayMs);
  }

  #helperStarted(thread: Thread, { port, area }: Extract<FromThread, { type: "helper" }>): void {
    const { config, credentials, gate, onMessage } = this.#options;
    const gateRow = ConnectGate.helperRow(config, thread.row.index);
    const receive = (message: FromHelper): void => {
      if (message.type === "logs") onMessage(thread, message);
      else credentials?.wanted(message.refused);
    };
    thread.helper = new ThreadHelper(port, area, receive, (helper) => {
      credentials?.gone(helper);
      gate.sweep(gateRow);
      thread.row.set("syncOpen", 0);
    });
    credentials?.attached(thread.helper);
  }

  #startFailed(thread: Thread, cause: unknown): void {
    if (thread.state !== "starting") return;
    thread.startFailure ??= startFailed(cause);
    // Node remembers in each thread that a module failed to load: the next try needs a new thread.
    thread.end();
  }

  /** `serve` has ended, for whatever reason. */
  async #ended(thread: Thread, reason: unknown): Promise<void> {
    const { state } = thread;
    const { onMessage, onGone, credentials, gate } = this.#options;
    await thread.linkClosed();
    thread.helper?.gone();
    this.#threads.delete(thread);
    const lostLogs = thread.row.get("logsMade") - thread.row.get("logsTaken");
    if (lostLogs > 0) onMessage(thread, { type: "logs", records: [], dropped: lostLogs });
    credentials?.gone(thread);
    // The row is free before a listener hears of the end and starts the next thread.
    gate.sweep(thread.row.index);
    this.totals.retire(thread.row);
    this.#ledger.free(thread.row.index);
    if (state === "starting" && !this.#closing) return this.#failedToStart(thread, reason);
    const why = thread.endReason ?? reason;
    const isExpected = this.#closing || thread.isAskedToClose;
    if (!isExpected) this.#died++;
    this.#tell(this.#closing ? "closed" : isExpected ? "recycled" : "died", thread, isExpected ? undefined : why);
    onGone(thread, threadDied(thread, why));
    if (!isExpected) this.#onUnexpectedExit(thread, why);
  }

  #failedToStart(thread: Thread, reason: unknown): void {
    const failure = thread.startFailure ?? startFailed(reason);
    this.#startFailure = failure;
    this.#tell("failed", thread, failure.cause);
    const delayMs = this.#restarts.startFailed();
    this.#options.logger.error("thread could not start", endOf(thread, failure.cause));
    this.rejectReady(failure);
    // While others serve, the tasks module is good and this may pass. While others are still starting, they decide: a bad
    // module would start each of them anew while the next one tries. After the last failure only a new call tries again.
    const others = [...this.#threads];
    if (others.some(({ state }) => state !== "starting")) return this.#restarts.restartIn(delayMs);
    if (others.length > 0) return;
    this.#restarts.cancel();
    this.#retryStartAt = monotonic() + delayMs;
    this.#options.onAllFailed(failure);
  }

  #onUnexpectedExit(thread: Thread, reason: unknown): void {
    const delayMs = this.#restarts.died(thread.startedAt);
    this.#options.logger.error("thread died", { ...endOf(thread, reason), delayMs: Math.round(delayMs) });
    this.#restarts.restartIn(delayMs);
  }

  #tell(event: ThreadMessage["event"], { threadId }: Thread, reason?: unknown): void {
    if (!threadChannel.hasSubscribers) return;
    const code = reason === undefined ? {} : { code: errorCode(reason) };
    threadChannel.publish({ event, manager: this.#options.manager, threadId, ...code });
  }
}
