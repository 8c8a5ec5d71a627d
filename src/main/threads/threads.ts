import type { Worker } from "node:worker_threads";
import type { Piscina as ThreadPool } from "piscina";
import { threadEnv } from "../../config/env.js";
import { type ThreadMessage, threadChannel } from "../../core/channels.js";
import type { ThreadStartFailedError } from "../../core/errors.js";
import { errorCode, type Logger } from "../../core/log.js";
import { requirePackage, threadFile } from "../../core/packages.js";
import { permissionFlags } from "../../core/permissions.js";
import { UNREAD_MS, monotonic, randomBetween } from "../../core/clock.js";
import { waitAtMost } from "../../core/waiting.js";
import { ConnectGate } from "../../gate/connect-gate.js";
import { fromErrorData } from "../../link/error-serialization.js";
import type { Ledger, LedgerTotals } from "../../link/ledger.js";
import type {
  AuditedMessage,
  FromThread,
  Hello,
  LogRecord,
  ReportMessage,
  ResultsMessage,
  Serve,
  ThreadData,
} from "../../link/protocol.js";
import { ThreadHelper } from "./helper.js";
import { StartLimiter } from "./start-limiter.js";
import { Thread } from "./thread.js";
import type { ThreadCredentials } from "./thread-credentials.js";
import { endOf, startFailed, ThreadExit, threadDied } from "./thread-end.js";

const { Piscina } = requirePackage<typeof import("piscina")>("piscina");

export interface ThreadsOptions {
  /** Of the manager, for who listens to `redthread:thread`. */
  readonly manager: number;
  readonly config: ThreadData["redthread"]["config"];
  readonly taskPrefix: string;
  readonly ledger: Ledger;
  readonly totals: LedgerTotals;
  readonly gate: { readonly buffer: SharedArrayBuffer; sweep(row: number): void };
  readonly logger: Logger;
  readonly credentials: ThreadCredentials | undefined;
  readonly onReady: (thread: Thread) => void;
  readonly onResults: (thread: Thread, results: ResultsMessage) => void;
  readonly onReport: (thread: Thread, report: ReportMessage) => void;
  /** The thread could not read its message of this number. */
  readonly onUnreadable: (thread: Thread, message: number) => void;
  readonly onAudited: (thread: Thread, audit: AuditedMessage) => void;
  readonly onLogs: (thread: Thread, records: readonly LogRecord[], dropped: number) => void;
  /** A thread that served is gone, expected or not; what it ran is lost with `reason`. */
  readonly onGone: (thread: Thread, reason: Error) => void;
  /** One of the threads could not start. */
  readonly onStartFailed: (error: Error) => void;
  /** Nor could any other: who waits for one waits in vain. */
  readonly onAllFailed: (error: Error) => void;
}

/** A thread that lived for less is counted as a quick death, and its replacement comes later each time. */
const SETTLED_MS = 10_000;
const FIRST_DELAY_MS = 100;
const MAX_DELAY_MS = 30_000;

/**
 * The threads of a manager: piscina gives birth to them and buries them; each runs one endless `serve`, whose
 * rejection is the reason of its death. What they do meanwhile travels on their links.
 */
export class Threads {
  static #leaving = 0;
  readonly #options: ThreadsOptions;
  readonly #birth: ConstructorParameters<typeof Piscina>[0];
  readonly #threads = new Set<Thread>();
  readonly #startLimiter = new StartLimiter<Thread>();
  /** Of the threads that live, what is to be done when they end. */
  readonly #ends = new Set<Promise<void>>();
  /** Of the threads that were told to terminate and have not exited. */
  readonly #exits = new Set<Promise<unknown>>();
  readonly #replacements = new Set<NodeJS.Timeout>();
  #tokens = 0;
  #died = 0;
  #quickDeaths = 0;
  #startFailure: ThreadStartFailedError | undefined;
  #retryStartAt = 0;
  #closing = false;

  constructor(options: ThreadsOptions) {
    // There, a thread's greeting would end the process: its port has no `on`.
    if ("deno" in process.versions) throw startFailed(new Error("redthread's threads need Node or Bun, not Deno"));
    this.#options = options;
    const { config, taskPrefix, ledger, gate, credentials } = options;
    const { count, resourceLimits, execArgv, env } = config.threads;
    const hasProvider = credentials !== undefined;
    const data: ThreadData = {
      redthread: { config, ledger: ledger.buffer, gate: gate.buffer, hasProvider, taskPrefix },
    };
    this.#birth = {
      filename: threadFile("entry.cjs"),
      minThreads: 0,
      maxThreads: 1,
      concurrentTasksPerWorker: 1,
      recordTiming: false,
      idleTimeout: Infinity,
      // The default parks an idle thread in Atomics.wait: its sockets and messages go unheard.
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

  /** Threads that ended although nobody had asked them to close. */
  get died(): number {
    return this.#died;
  }

  /** Why no thread could start, if that is so and another try would come too early; else tries again. */
  startFailure(): ThreadStartFailedError | undefined {
    if (!this.#startFailure || this.#threads.size > 0) return undefined;
    if (monotonic() < this.#retryStartAt) return this.#startFailure;
    this.startMissing();
    return undefined;
  }

  /** Starts what is missing, also the replacement of one that is retiring. */
  startMissing(): void {
    while (!this.#closing && this.#isMissingOne) this.#start();
  }

  /** Asks every thread to close; resolves when all have, at the latest after `ms`. */
  async close(ms: number, graceMs: number): Promise<void> {
    this.#closing = true;
    this.#cancelReplacements();
    const threads = [...this.#threads];
    for (const thread of threads) thread.close(ms, graceMs);
    for (const unborn of this.#startLimiter.stop()) unborn.closed();
    const closed = Promise.all(threads.map((thread) => thread.answered));
    // Who did not answer is ended next; an answer that a blocked loop has not read yet is a message in the port.
    await waitAtMost(ms, closed, UNREAD_MS);
  }

  /** Ends whatever thread is left, also one in an endless loop. */
  async destroy(): Promise<void> {
    this.#closing = true;
    this.#startLimiter.stop();
    for (const thread of this.#threads) thread.terminate();
    await Promise.all(this.#ends); // each has its limit
  }

  /** A thread in a call that nothing can interrupt, as execSync(), exits after that: it is not waited for after `ms`. */
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
    const { ledger } = this.#options;
    const row = ledger.take();
    const token = ++this.#tokens;
    const thread = new Thread(token, ledger.row(row), this.#freePlace());
    this.#threads.add(thread);
    const job: Serve = { serve: token, row };
    const ended = this.#serve(thread, job)
      .then(
        () => this.#ended(thread, row, undefined),
        (reason: unknown) => this.#ended(thread, row, reason),
      )
      .finally(() => this.#ends.delete(ended));
    this.#ends.add(ended);
  }

  /** The first that no thread has which stays. */
  #freePlace(): number {
    const staying = this.#staying;
    let place = 0;
    while (staying.some((thread) => thread.place === place)) place++;
    return place;
  }

  /** Its whole life, once it is its turn to begin. */
  async #serve(thread: Thread, job: Serve): Promise<void> {
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
      if (this.#closing) throw new Error("it had not been started");
      const over = pool.run(job);
      [worker] = pool.threads;
      thread.born(() => void pool.destroy());
      worker!.once("error", () => (hasThrown = true));
      worker!.once("exit", (exitCode) => {
        exit = new ThreadExit(exitCode);
        // One that ends before it has begun its `serve` is not told by piscina.
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
   * Each thread has a pool of its own. Where Node refuses to start a thread, piscina throws but keeps the job: in a common
   * pool another thread would be given it, or it would be rejected to nobody, which ends the process.
   */
  #poolFor(thread: Thread): ThreadPool {
    const pool = new Piscina(this.#birth);
    pool.on("message", (message: unknown) => this.#greet(thread, pool, message));
    // Without a listener an error before or after its `serve` would end the process.
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

  #greet(thread: Thread, { threads: [worker] }: ThreadPool, message: unknown): void {
    // A user's own parentPort.postMessage comes here too.
    const { hello, port } = (message ?? {}) as Partial<Hello>;
    if (hello !== thread.token || !worker || !port) return;
    thread.attached(worker, port, (heard) => this.#receive(thread, heard));
    this.#tell("started", thread);
    this.#options.credentials?.attached(thread);
  }

  #receive(thread: Thread, message: FromThread): void {
    switch (message.type) {
      case "results":
        this.#options.onResults(thread, message);
        break;
      case "report":
        this.#options.onReport(thread, message);
        break;
      case "unreadable":
        this.#options.onUnreadable(thread, message.message);
        break;
      case "audited":
        this.#options.onAudited(thread, message);
        break;
      case "ready":
        this.#startLimiter.done(thread);
        if (!thread.started()) return;
        this.#startFailure = undefined;
        this.#tell("ready", thread);
        this.#options.onReady(thread);
        // Those that failed while nobody served.
        if (this.#isMissingOne && this.#replacements.size === 0) this.#replaceIn(this.#nextDelayMs());
        break;
      case "failed":
        this.#startFailed(thread, fromErrorData(message.error));
        break;
      case "logs":
        thread.row.add("logsTaken", message.records.length + message.dropped);
        this.#options.onLogs(thread, message.records, message.dropped);
        break;
      case "loginWanted":
        this.#options.credentials?.wanted(message.refused);
        break;
      case "helper":
        this.#helperStarted(thread, message);
        break;
      case "closed":
        thread.closed();
        break;
    }
  }

  #helperStarted(thread: Thread, { port, area }: Extract<FromThread, { type: "helper" }>): void {
    const { config, credentials, gate, onLogs } = this.#options;
    const row = ConnectGate.helperRow(config, thread.row.index);
    const helper = new ThreadHelper(port, area, {
      receive: (message) => {
        if (message.type === "logs") onLogs(thread, message.records, message.dropped);
        else credentials?.wanted(message.refused);
      },
      onGone: () => {
        credentials?.gone(helper);
        gate.sweep(row);
        thread.row.set("syncOpen", 0);
      },
    });
    thread.helper = helper;
    credentials?.attached(helper);
  }

  #startFailed(thread: Thread, cause: unknown): void {
    if (thread.state !== "starting") return;
    thread.startFailure ??= startFailed(cause);
    // A module that failed to load stays failed in its thread; the next try needs a new one.
    thread.end();
  }

  /** The end of `serve`, whatever led to it. */
  async #ended(thread: Thread, row: number, reason: unknown): Promise<void> {
    const { state } = thread;
    await thread.linkClosed();
    thread.helper?.gone();
    this.#threads.delete(thread);
    const unsaid = thread.row.get("logsMade") - thread.row.get("logsTaken");
    if (unsaid > 0) this.#options.onLogs(thread, [], unsaid);
    this.#options.credentials?.gone(thread);
    // Before anybody hears of the end and starts the next.
    this.#options.gate.sweep(row);
    this.#options.totals.retire(thread.row);
    this.#options.ledger.free(row);
    if (state === "starting" && !this.#closing) return this.#failedToStart(thread, reason);
    const why = thread.endReason ?? reason;
    const isExpected = this.#closing || thread.isAskedToClose;
    if (!isExpected) this.#died++;
    this.#tell(this.#closing ? "closed" : isExpected ? "recycled" : "died", thread, isExpected ? undefined : why);
    this.#options.onGone(thread, threadDied(thread, why));
    if (!isExpected) this.#onUnexpectedExit(thread, why);
  }

  #failedToStart(thread: Thread, reason: unknown): void {
    const { logger, onStartFailed, onAllFailed } = this.#options;
    const failure = thread.startFailure ?? startFailed(reason);
    this.#startFailure = failure;
    this.#tell("failed", thread, failure.cause);
    const delayMs = this.#nextDelayMs();
    this.#quickDeaths++;
    logger.error("thread could not start", endOf(thread, failure.cause));
    onStartFailed(failure);
    // While others serve, the tasks module is good and this may pass; otherwise only somebody's wish tries again. Who
    // is still starting decides which it is: a module that is bad would start each of them anew while the next one tries.
    const others = [...this.#threads];
    if (others.some(({ state }) => state !== "starting")) return this.#replaceIn(delayMs);
    if (others.length > 0) return;
    this.#cancelReplacements();
    this.#retryStartAt = monotonic() + delayMs;
    onAllFailed(failure);
  }

  #tell(event: ThreadMessage["event"], { threadId }: Thread, reason?: unknown): void {
    if (!threadChannel.hasSubscribers) return;
    const code = reason === undefined ? {} : { code: errorCode(reason) };
    threadChannel.publish({ event, manager: this.#options.manager, threadId, ...code });
  }

  #onUnexpectedExit(thread: Thread, reason: unknown): void {
    if (monotonic() - thread.startedAt >= SETTLED_MS) this.#quickDeaths = 0;
    const delayMs = this.#quickDeaths === 0 ? 0 : this.#nextDelayMs();
    this.#quickDeaths++;
    this.#options.logger.error("thread died", { ...endOf(thread, reason), delayMs: Math.round(delayMs) });
    this.#replaceIn(delayMs);
  }

  #replaceIn(delayMs: number): void {
    const timer = setTimeout(() => {
      this.#replacements.delete(timer);
      this.startMissing();
    }, delayMs);
    this.#replacements.add(timer);
  }

  #cancelReplacements(): void {
    for (const timer of this.#replacements) clearTimeout(timer);
    this.#replacements.clear();
  }

  #nextDelayMs(): number {
    return Math.min(FIRST_DELAY_MS * 2 ** this.#quickDeaths, MAX_DELAY_MS) * randomBetween(0.5, 1);
  }
}
