import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import type { Config } from "../config/options.js";
import { ShuttingDownError, ThreadStartFailedError } from "../core/errors.js";
import { errorCode, type Logger } from "../core/log.js";
import { permissionFlags, threadFile } from "../core/packages.js";
import { type Deferred, deferred, waitAtMost } from "../core/waiting.js";
import { fromErrorData } from "../link/error-serialization.js";
import type { LoginMessage } from "../link/protocol.js";
import { KeeperLedger } from "./keeper-ledger.js";
import type { FromKeeper, KeeperData, KeeperEnd, ToKeeper } from "./keeper-protocol.js";

/** What sends logins to threads. */
interface Logins {
  attached(listener: KeeperThread): void;
  gone(listener: KeeperThread): void;
  wanted(refused: number): void;
}

export interface KeeperHostOptions {
  readonly config: Config;
  readonly gate?: SharedArrayBuffer;
  readonly credentials?: Logins | undefined;
  readonly logger: Logger;
  /** The keeper's thread is gone, with its sockets. */
  readonly onGone?: () => void;
}

/** Starts the keeper with the first lock, and another one after its end. */
export class KeeperHost {
  readonly #options: KeeperHostOptions;
  #keeper: KeeperThread | undefined;
  #ledger: KeeperLedger | undefined;
  #isClosed = false;

  constructor(options: KeeperHostOptions) {
    this.#options = options;
  }

  /** Whether a keeper lives, connected or not. */
  get isKeeping(): boolean {
    return this.#keeper !== undefined;
  }

  /** The numbers of all its keepers, one after the other; undefined before the first one. */
  get ledger(): KeeperLedger | undefined {
    return this.#ledger;
  }

  /**
   * One more thread's end of the keeper, which is connected.
   * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED, REDTHREAD_THREAD_START_FAILED, REDTHREAD_SHUTTING_DOWN
   */
  async attach(): Promise<KeeperEnd> {
    if (this.#isClosed) throw new ShuttingDownError("no more locks are taken", { outcome: "not-sent" });
    const keeper = (this.#keeper ??= this.#start());
    await keeper.ready;
    return { port: keeper.attach(), ledger: this.#ledger!.buffer };
  }

  async close(ms: number): Promise<void> {
    this.#isClosed = true;
    await this.#keeper?.close(ms);
  }

  #start(): KeeperThread {
    const ledger = (this.#ledger ??= new KeeperLedger());
    const keeper = new KeeperThread(this.#options, ledger.buffer, () => {
      if (this.#keeper === keeper) this.#keeper = undefined;
      for (const field of ["open", "waiting"] as const) ledger.set(field, 0);
      if (this.#isClosed) ledger.set("held", 0);
    });
    return keeper;
  }
}

/** The thread of one keeper. */
export class KeeperThread {
  /** Resolves when it is connected. */
  readonly ready: Promise<void>;
  readonly #worker: Worker;
  readonly #ready: Deferred<void>;
  readonly #exited: Promise<void>;
  #isClosing = false;

  constructor(options: KeeperHostOptions, ledger: SharedArrayBuffer, onExit: () => void) {
    const { config, gate, credentials, logger, onGone } = options;
    const data: KeeperData = { config, hasProvider: credentials !== undefined, ledger, ...(gate && { gate }) };
    this.#ready = deferred();
    this.ready = this.#ready.promise;
    this.ready.catch(() => {}); // each caller of attach() sees it
    // Nothing else of execArgv, as for a helper: what a process preloads is for the user's code.
    this.#worker = new Worker(threadFile("keeper-entry.js"), { workerData: data, execArgv: permissionFlags() });
    this.#worker.on("message", (message: FromKeeper) => {
      if (message.type === "ready") this.#connected();
      else if (message.type === "failed") this.#ready.reject(fromErrorData(message.error));
      else if (message.type === "loginWanted") credentials?.wanted(message.refused);
      else for (const { level, message: text, fields } of message.records) logger[level](text, fields);
    });
    let cause: unknown;
    this.#worker.on("error", (error) => (cause = error));
    this.#exited = new Promise((resolve) => {
      this.#worker.once("exit", () => {
        onExit();
        credentials?.gone(this);
        onGone?.();
        if (!this.#isClosing) logger.error("the keeper, which extends locks, has ended", { code: errorCode(cause) });
        const ended = "the keeper, which extends locks, ended before it was connected";
        this.#ready.reject(new ThreadStartFailedError(ended, { outcome: "not-sent", cause }));
        resolve();
      });
    });
    credentials?.attached(this);
  }

  #connected(): void {
    this.#ready.resolve();
    this.#worker.unref(); // until now a caller waits for it, and nothing else may hold the process
  }

  attach(): MessagePort {
    const { port1, port2 } = new MessageChannel();
    this.post({ type: "attach", port: port1 }, [port1]);
    return port2;
  }

  post(message: ToKeeper | LoginMessage, transferList: readonly MessagePort[] = []): void {
    this.#worker.postMessage(message, transferList);
  }

  /** Ends it, by force after `ms`. What is still held is released before. Never rejects. */
  async close(ms: number): Promise<void> {
    this.#isClosing = true;
    this.post({ type: "close", closeMs: ms });
    if (!(await waitAtMost(ms, this.#exited))) await this.#worker.terminate();
  }
}
