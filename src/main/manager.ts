// The main thread's room: ConnectionManager, which users hold, and its parts. It may import every room below, but
// nothing of a thread. Start reading here: the constructor makes the parts, `run()` goes to dispatch/dispatcher.ts, the threads'
// life is in threads/threads.ts, and `shutdown()` in shutdown.ts. observe/ has the log, the statistics and the dashboard.
import type { RedisHandle } from "../commands/ioredis.js";
import { loadConfig } from "../config/env.js";
import type { AcquireOptions, ManagerOptions } from "../config/options.js";
import { ShuttingDownError, TaskAbortedError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import { ConnectGate } from "../gate/connect-gate.js";
import { sameError } from "../link/error-serialization.js";
import type { ThreadData } from "../link/protocol.js";
import type { Lock, SharedLock } from "../locks/held-lock.js";
import type { LockKeeping } from "../locks/kept-lock.js";
import type { Locker } from "../locks/locker.js";
import type { LockOptions, SharedLockOptions } from "../locks/lock-options.js";
import type { Near } from "../near/near-cache.js";
import { MainClients } from "./clients.js";
import { Dispatcher } from "./dispatch/dispatcher.js";
import { type MapOptions, type MapOutcome, TaskMap } from "./dispatch/task-map.js";
import { badRunOptions, type RunOptions } from "./dispatch/task-run.js";
import type { AnyTasks, TaskInput, TaskName, TaskResult } from "./dispatch/task-types.js";
import { dashboard, type DashboardOptions, type RequestHandler } from "./observe/dashboard.js";
import { Locks } from "./locks.js";
import { MainNear } from "./near.js";
import { createLogger } from "./observe/logger.js";
import { collectStats, type Stats } from "./observe/stats.js";
import { Readiness } from "./readiness.js";
import { Recycler } from "./recycler.js";
import { handleSignals, type ShutdownReport, shutDown } from "./shutdown.js";
import { type OnMessage, type SubscribeOptions, Subscriptions } from "./subscriptions.js";
import { ThreadCredentials } from "./threads/thread-credentials.js";
import { Threads } from "./threads/threads.js";

export interface Health {
  /** False once the shutdown is over. */
  readonly live: boolean;
  /** Whether new work should be sent here. */
  readonly ready: boolean;
  /** Why it is not ready. Also while it is ready: a node of a Cluster is away, subscriptions are not back, locks are not extended, the near cache is off. */
  readonly reasons: readonly string[];
}

export interface ShutdownOptions {
  /** Shown in the report and in the log. Default "shutdown". */
  readonly reason?: string | undefined;
  /** These three override the manager's options of the same names. */
  readonly lameDuckMs?: number | undefined;
  readonly drainMs?: number | undefined;
  readonly closeMs?: number | undefined;
  /** Tasks are taken until this settles, within `drainMs`: as for the requests that a server still answers. */
  readonly until?: PromiseLike<unknown> | undefined;
}

/**
 * Owns the primary client, the threads and their shutdown. A process has one, on its main thread. `Tasks` is the type of the
 * tasks module. The threads start with the manager, and the process stays until `shutdown()`.
 */
export class ConnectionManager<Tasks extends object = AnyTasks> implements AsyncDisposable {
  static #managers = 0;
  /** The manager's number in its process, as in the messages of diagnostics channels. */
  readonly id = ++ConnectionManager.#managers;
  readonly #config: ThreadData["redthread"]["config"];
  readonly #logger: Logger;
  readonly #closeLogger: () => Promise<void>;
  readonly #gate: ConnectGate;
  readonly #credentials: ThreadCredentials | undefined;
  readonly #dispatcher: Dispatcher;
  readonly #threads: Threads;
  readonly #recycler: Recycler;
  readonly #clients: MainClients;
  readonly #subscriptions: Subscriptions;
  readonly #locks: Locks;
  readonly #near: MainNear;
  readonly #readiness: Readiness;
  readonly #stopSignals: (() => void) | undefined;
  #phase: "serving" | "lame duck" | "refusing" | "closed" = "serving";
  #shutdown: Promise<ShutdownReport> | undefined;

  /**
   * Throws before anything is opened.
   * @throws REDTHREAD_CONFIG_INVALID, with everything that is wrong; REDTHREAD_THREAD_START_FAILED where a bundler took
   *   redthread away from its files, and on Deno
   */
  constructor(options: ManagerOptions) {
    this.#config = loadConfig(options, { requireTasks: true });
    const { redis, retry, shutdown, log } = this.#config;
    if (options.logger) {
      this.#logger = options.logger;
      this.#closeLogger = async () => {}; // the caller closes its own logger
    } else {
      const logger = createLogger(log);
      this.#logger = logger;
      this.#closeLogger = () => logger.close();
    }
    const gateBuffer = ConnectGate.buffer(this.#config);
    this.#gate = new ConnectGate(gateBuffer, this.#config, ConnectGate.mainRow(this.#config));
    const provider = options.redis?.credentials;
    const limitMs = redis.connectTimeoutMs;
    this.#credentials = provider && new ThreadCredentials({ provider, limitMs, retry, logger: this.#logger });
    this.#dispatcher = new Dispatcher(this.id, this.#config, this.#logger);
    const shared = { config: this.#config, gate: this.#gate, logins: this.#credentials?.logins, logger: this.#logger };
    this.#near = new MainNear(this.#config, () => this.#clients.primary.get());
    const { onIdentified } = this.#near;
    this.#clients = new MainClients(shared, (asked) => this.#subscriptions.resubscribed(asked), onIdentified);
    const { primary, subscriber } = this.#clients;
    this.#subscriptions = new Subscriptions(subscriber, this.#logger, redis.keyPrefix);
    this.#readiness = new Readiness(this.#config, this.#logger, primary, () => this.#phase === "serving");
    this.#locks = new Locks({
      config: this.#config,
      gateBuffer,
      gate: this.#gate,
      credentials: this.#credentials,
      logger: this.#logger,
      near: this.#near.buffers,
    });
    this.#threads = this.#startThreads(gateBuffer);
    this.#recycler = new Recycler(this.#config, this.#threads, this.#dispatcher, this.#logger);
    this.#stopSignals = shutdown.handleSignals
      ? handleSignals((signal) => this.shutdown({ reason: signal }))
      : undefined;
  }

  /**
   * Resolves when every thread has loaded its tasks module and the primary client is connected. Logs a warning at a replica,
   * and at a node of a Cluster without `redis.clusterNodes`. After a rejection `health()` is not ready either. Where Redis may
   * come back, the manager goes on trying.
   * @throws REDTHREAD_THREAD_START_FAILED, REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED, REDTHREAD_SHUTTING_DOWN,
   *   REDTHREAD_CONFIG_INVALID (a Sentinel as the server, a server as a sentinel or as a Cluster's node)
   */
  async ready(): Promise<void> {
    try {
      const refused = this.#refusal();
      if (refused) throw refused;
      await this.#readiness.prove(this.#threads.ready());
    } catch (error) {
      throw this.#refusal() ?? error; // closed meanwhile
    }
  }

  /**
   * The primary client. It is replaced every `primary.ttlMs` without a gap: use it in this turn and the second after it, or
   * hold it with `use`. It is given also while Redis is away: its commands then wait until their deadlines.
   * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED (at its first connect); REDTHREAD_SHUTTING_DOWN, `signal.reason`
   */
  async getRedis({ signal }: AcquireOptions = {}): Promise<RedisHandle> {
    this.#refuseIfClosed();
    return this.#clients.primary.get(signal);
  }

  /** Runs `fn` with the primary client, which is not closed before `fn` is done. */
  async use<T>(fn: (redis: RedisHandle) => Promise<T>, { signal }: AcquireOptions = {}): Promise<T> {
    this.#refuseIfClosed();
    return this.#clients.primary.use(fn, signal);
  }

  /**
   * The result of a task that runs in one of the threads, or a rejection with the error that the task threw. Input and result
   * are cloned as by `structuredClone`. Besides, no two tasks share a value, and in plain objects and arrays Buffers stay Buffers
   * and views bring only their own bytes. A small plain input (64 objects of 256 entries, 4 kB a view) is cloned at this call,
   * any other input when it is sent: do not change that before the task has settled.
   * @throws REDTHREAD_TASK_NOT_FOUND, REDTHREAD_TASK_TIMEOUT, REDTHREAD_TASK_ABORTED, REDTHREAD_QUEUE_FULL,
   *   REDTHREAD_NOT_CLONEABLE, REDTHREAD_THREAD_START_FAILED, REDTHREAD_THREAD_DIED, REDTHREAD_SHUTTING_DOWN
   */
  run<Name extends TaskName<Tasks>>(
    name: Name,
    ...[input, options = {}]: undefined extends TaskInput<Tasks[Name]>
      ? [input?: TaskInput<Tasks[Name]>, options?: RunOptions]
      : [input: TaskInput<Tasks[Name]>, options?: RunOptions]
  ): Promise<TaskResult<Tasks[Name]>> {
    const refused = this.#refusal() ?? this.#threads.startFailure() ?? badRunOptions(name, options);
    if (refused) return Promise.reject(sameError(refused));
    return this.#dispatcher.run(name, input, options) as Promise<TaskResult<Tasks[Name]>>;
  }

  /**
   * The results of a task for each input, as an async iterator. Inputs are taken as results are consumed, so that memory does
   * not grow with their number. The iterator throws the error of a task or of the inputs, and what `run` rejects with. A
   * consumer that leaves it early gives up the tasks under way.
   */
  map<Name extends TaskName<Tasks>, OnError extends MapOptions["onError"] = "throw">(
    name: Name,
    inputs: Iterable<TaskInput<Tasks[Name]>> | AsyncIterable<TaskInput<Tasks[Name]>>,
    options: MapOptions & { readonly onError?: OnError } = {},
  ): AsyncIterableIterator<OnError extends "collect" ? MapOutcome<TaskResult<Tasks[Name]>> : TaskResult<Tasks[Name]>> {
    const refusal = (): Error | undefined => this.#refusal() ?? this.#threads.startFailure();
    // The types come from the tasks module, as for `run`.
    return new TaskMap(this.#dispatcher, this.#config.threads.count, refusal, name, inputs, options) as never;
  }

  /**
   * Resolves when the channel is subscribed. After every reconnect it is subscribed again, and `onGap` is called. The returned
   * function ends the subscription, and can be called again if it rejects. Both listeners run in the AsyncLocalStorage of this
   * call. A listener that throws or rejects is logged.
   * @throws REDTHREAD_CONFIG_INVALID (a sharded pattern), REDTHREAD_NOT_SENT or REDTHREAD_CIRCUIT_OPEN (Redis is away),
   * REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED (at the first connect), REDTHREAD_SHUTTING_DOWN
   */
  async subscribe<Buffers extends boolean | undefined = false>(
    channel: string,
    onMessage: OnMessage<Buffers extends true ? Buffer : string>,
    options?: SubscribeOptions & { readonly buffers?: Buffers },
  ): Promise<() => Promise<void>> {
    this.#refuseIfClosed();
    return this.#subscriptions.subscribe(channel, onMessage, options);
  }

  /**
   * Runs `fn` while the main thread holds the lock `key`, and gives its result; see `withLock` of `redthread/worker`.
   * @throws REDTHREAD_LOCK_NOT_ACQUIRED, REDTHREAD_LOCK_LOST, what `fn` throws, REDTHREAD_CONFIG_INVALID,
   * REDTHREAD_SHUTTING_DOWN, `signal.reason`
   */
  withLock<T>(
    key: string | Buffer,
    options: SharedLockOptions,
    fn: (lock: SharedLock) => T | PromiseLike<T>,
  ): Promise<T>;
  withLock<T>(key: string | Buffer, options: LockOptions, fn: (lock: Lock) => T | PromiseLike<T>): Promise<T>;
  async withLock<T>(key: string | Buffer, options: LockOptions, fn: (lock: Lock) => T | PromiseLike<T>): Promise<T> {
    this.#refuseIfClosed();
    return (await this.#locker()).withLock(key, options, fn);
  }

  /** Like `withLock`, for callers that must keep the lock: `release()` it, or declare it with `await using`. */
  acquireLock(key: string | Buffer, options: SharedLockOptions): Promise<SharedLock>;
  acquireLock(key: string | Buffer, options?: LockOptions): Promise<Lock>;
  async acquireLock(key: string | Buffer, options: LockOptions = {}): Promise<Lock> {
    this.#refuseIfClosed();
    return (await this.#locker()).acquire(key, options);
  }

  /** @internal For redthread/bullmq: keeps the locks of its jobs. Resolves when the keeper is connected. */
  async keepLocks(): Promise<LockKeeping> {
    this.#refuseIfClosed();
    return (await this.#locker()).keeping();
  }

  /** Hot keys, from memory that all threads share; see `near` of `redthread/worker`. */
  get near(): Near {
    return this.#near.face;
  }

  stats(): Stats {
    return collectStats({
      clients: this.#clients,
      gate: this.#gate,
      maxConnections: this.#config.connections.max,
      dispatcher: this.#dispatcher,
      threads: this.#threads,
      totals: this.#threads.totals,
      recycled: this.#recycler.recycled,
      locks: this.#locks,
      near: this.#near,
      maxDedicated: this.#config.dedicated.max,
      places: this.#config.threads.count,
    });
  }

  health(): Health {
    const reasons: string[] = [];
    if (this.#phase !== "serving") reasons.push(this.#phase === "closed" ? "shut down" : "shutting down");
    else {
      if (this.#threads.serving.length === 0) reasons.push("no thread is ready");
      for (const role of ["primary", "subscriber"] as const)
        if (this.#clients[role].state === "connecting") reasons.push(`the ${role} client is connecting`);
      const { failure } = this.#readiness;
      if (failure !== undefined) reasons.push(`ready() was rejected: ${failure}`);
    }
    const ready = reasons.length === 0;
    if (!this.#clients.subscriber.areSubscriptionsBack) reasons.push("some subscriptions are not back yet");
    // The other nodes serve, and taking the process out of service would not mend this one.
    if (this.#config.redis.clusterNodes && this.#gate.state !== "closed") reasons.push("a node of the Cluster is away");
    // The threads serve. Each holder of a lock is told of the loss, if it comes to that.
    const { problem } = this.#locks;
    if (problem !== undefined) reasons.push(problem);
    // Redis is asked instead.
    if (this.#phase !== "closed" && this.#near.problem !== undefined) reasons.push(this.#near.problem);
    return { live: this.#phase !== "closed", ready, reasons };
  }

  /** A live page of `stats()` and `health()` for node:http, Express or Fastify; see `redthread/dashboard`. */
  dashboard(options?: DashboardOptions): RequestHandler {
    return dashboard(this, options);
  }

  /**
   * Lets accepted tasks finish, then closes every client of every thread. Idempotent: all calls share one report.
   * Takes at most lameDuckMs + drainMs + closeMs + 500 ms, also when a thread spins in an endless loop.
   */
  shutdown(options: ShutdownOptions = {}): Promise<ShutdownReport> {
    return (this.#shutdown ??= this.#shutDown(options));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown({ reason: "disposed" });
  }

  async #shutDown({ reason = "shutdown", ...given }: ShutdownOptions): Promise<ShutdownReport> {
    const { shutdown } = this.#config;
    const { lameDuckMs = shutdown.lameDuckMs, drainMs = shutdown.drainMs, closeMs = shutdown.closeMs } = given;
    this.#phase = "lame duck";
    try {
      return await shutDown(
        reason,
        { ...shutdown, lameDuckMs, drainMs, closeMs },
        {
          dispatcher: this.#dispatcher,
          threads: this.#threads,
          clients: [this.#clients.subscriber, this.#clients.primary],
          locks: this.#locks,
          logger: this.#logger,
          closeLogger: this.#closeLogger,
          refuse: () => this.#refuse(),
          until: given.until,
        },
      );
    } finally {
      this.#phase = "closed";
      this.#credentials?.stop();
      this.#near.close();
      this.#stopSignals?.();
    }
  }

  #locker(): Promise<Locker> {
    return this.#locks.locker((signal) => this.#clients.primary.get(signal));
  }

  #refuse(): void {
    this.#phase = "refusing";
    this.#recycler.stop();
    this.#threads.rejectReady(this.#refusal()!);
  }

  #refuseIfClosed(): void {
    const refused = this.#refusal("closed");
    if (refused) throw refused;
  }

  /** Why no work is taken: undefined before the shutdown has come to this phase. */
  #refusal(since: "refusing" | "closed" = "refusing"): ShuttingDownError | undefined {
    if (this.#phase !== since && this.#phase !== "closed") return undefined;
    return new ShuttingDownError("the manager is shutting down and takes no more work", { outcome: "refused" });
  }

  #startThreads(gateBuffer: SharedArrayBuffer): Threads {
    return new Threads({
      manager: this.id,
      config: this.#config,
      taskPrefix: this.#dispatcher.taskPrefix,
      gateBuffer,
      near: this.#near.buffers,
      gate: this.#gate,
      logger: this.#logger,
      credentials: this.#credentials,
      onExit: (threadId) => void this.#near.threadExited(threadId),
      onKeeperWanted: (thread) => void this.#locks.attach(thread),
      onReady: (thread) => {
        this.#dispatcher.threadReady(thread);
        this.#recycler.threadReady();
      },
      onMessage: (thread, message) => {
        this.#dispatcher.receive(thread, message);
        if (message.type === "results") this.#recycler.resultsCame(thread);
      },
      onGone: (thread, reason) => {
        this.#dispatcher.threadGone(thread, this.#lost(reason));
        this.#recycler.threadGone(thread);
      },
      onAllFailed: (error) => this.#dispatcher.failQueued(error),
    });
  }

  /** The error of a task whose thread ended. During the shutdown the shutdown is the reason, whatever ended the thread. */
  #lost(reason: Error): Error {
    if (!this.#refusal()) return reason;
    return new TaskAbortedError("the shutdown could not wait for this task: its thread was closed before", {
      outcome: "unknown",
      cause: reason,
    });
  }
}
