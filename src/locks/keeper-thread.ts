import { type MessagePort, Worker } from "node:worker_threads";
import type { Config } from "../config/options.js";
import { ThreadStartFailedError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import { permissionFlags, threadFile } from "../core/packages.js";
import { waitAtMost } from "../core/waiting.js";
import { fromErrorData } from "../link/error-serialization.js";
import type { LoginMessage } from "../link/protocol.js";
import type { NearMemory } from "../near/near-memory.js";
import type { FromKeeper, KeeperData, ToKeeper } from "./keeper-protocol.js";

/** What sends logins to threads. */
interface Logins {
  attached(listener: KeeperThread): void;
  gone(listener: KeeperThread): void;
  wanted(refused: number): void;
}

export interface KeeperThreadOptions {
  readonly config: Config;
  readonly gate?: SharedArrayBuffer;
  /** Why there is no room for locks with replicas, if so. */
  readonly replicasProblem?: string | undefined;
  readonly credentials?: Logins | undefined;
  readonly logger: Logger;
  /** Without one the keeper only extends locks. */
  readonly near?: NearMemory | undefined;
  /** The keeper's thread is gone, with its sockets. */
  readonly onGone?: () => void;
}

/** What a keeper tells its host. */
export interface KeeperEvents {
  connected(): void;
  /** It could not be connected, and ends. */
  failed(error: unknown): void;
  ended(cause?: unknown): void;
}

/** A keeper as its host sees it. */
export interface StartedKeeper {
  post(message: ToKeeper, transferList?: readonly MessagePort[]): void;
  close(ms: number): Promise<void>;
}

/** The thread of one keeper. */
export class KeeperThread implements StartedKeeper {
  readonly #worker: Worker;
  readonly #exited: Promise<void>;

  constructor(options: KeeperThreadOptions, ledger: SharedArrayBuffer, events: KeeperEvents) {
    const { config, gate, replicasProblem, credentials, logger, near, onGone } = options;
    const hasProvider = credentials !== undefined;
    const data: KeeperData = {
      config,
      hasProvider,
      ledger,
      replicasProblem,
      near: near && { words: near.words, generation: near.nextGeneration() },
      ...(gate && { gate }),
    };
    // Nothing else of execArgv, as for a helper: what a process preloads is for the user's code.
    this.#worker = new Worker(threadFile("keeper-entry.js"), { workerData: data, execArgv: permissionFlags() });
    this.#worker.unref(); // an owner that waits for it holds the process
    let isAnswered = false;
    this.#worker.on("message", (message: FromKeeper) => {
      isAnswered ||= message.type === "ready" || message.type === "failed";
      if (message.type === "ready") events.connected();
      else if (message.type === "failed") events.failed(fromErrorData(message.error));
      else if (message.type === "loginWanted") credentials?.wanted(message.refused);
      else for (const { level, message: text, fields } of message.records) logger[level](text, fields);
    });
    let cause: unknown;
    this.#worker.on("error", (error) => (cause = error));
    this.#exited = new Promise((resolve) => {
      this.#worker.once("exit", () => {
        near?.nextGeneration(); // nothing is served any more
        credentials?.gone(this);
        onGone?.();
        const ended = "the keeper ended before it was connected";
        if (!isAnswered) events.failed(new ThreadStartFailedError(ended, { outcome: "not-sent", cause }));
        events.ended(cause); // the place of its connection is free for the next one
        resolve();
      });
    });
    credentials?.attached(this);
  }

  post(message: ToKeeper | LoginMessage, transferList: readonly MessagePort[] = []): void {
    this.#worker.postMessage(message, transferList);
  }

  /** Ends it, by force after `ms`. What is still held is released before. Never rejects. */
  async close(ms: number): Promise<void> {
    this.post({ type: "close", closeMs: ms });
    if (!(await waitAtMost(ms, this.#exited))) await this.#worker.terminate();
  }
}
