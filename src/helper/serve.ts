import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import type { OpenOptions } from "../clients/open-client.js";
import { type Config, freezeConfig } from "../config/options.js";
import { Logins } from "../connection/logins.js";
import { NotSentError, ShuttingDownError } from "../core/errors.js";
import { isLogged, type Logger, loggerOf, noopLogger } from "../core/log.js";
import { plainFields } from "../core/log-values.js";
import { connectionName } from "../core/names.js";
import { ConnectGate, ownGate } from "../gate/connect-gate.js";
import { fromErrorData } from "../link/error-serialization.js";
import { LedgerRow } from "../link/ledger.js";
import type { FromHelper, HelperData, SyncOpen, ToHelper, ToHelperFromCaller } from "../link/protocol.js";
import { type Asked, BY_PORT, SyncArea } from "../link/sync-area.js";
import { crossing, readSync, SyncWriter } from "../link/sync-codec.js";
import { SyncConnection } from "./sync-connection.js";

/** A helper's life: serves the requests of the thread that started it, until that one tells it to close, or ends. */
export function serveCalls(): void {
  const helper = new SyncServer(workerData as HelperData);
  parentPort!.on("message", (message: ToHelperFromCaller) => helper.receive(message));
  parentPort!.on("messageerror", (error) => helper.receive(error));
}

class SyncServer {
  readonly #data: HelperData;
  readonly #area: SyncArea;
  readonly #writer: SyncWriter;
  readonly #lines = new Map<number, SyncConnection>();
  readonly #setup: Promise<Setup>;
  #lastLine = 0;
  /** The request that nobody has answered yet. */
  #open: number | undefined;
  #isEnding = false;

  constructor(data: HelperData) {
    this.#data = data;
    this.#area = new SyncArea(data.area);
    this.#writer = new SyncWriter(this.#area.data);
    this.#setup = setUp(data);
    this.#setup.then(
      ({ options }) => options.gate.whenWanted(() => this.#giveUpIdle()),
      () => {}, // told to whoever opens a client
    );
    data.managed?.port.on("message", (message: ToHelper) => {
      if (message.type === "end") this.#end();
    });
  }

  /** An error is a request that came and could not be read. */
  receive(message: ToHelperFromCaller | Error): void {
    if (message !== null && "closeMs" in message) return void this.#close(message.closeMs);
    const asked = this.#area.take();
    this.#open = asked.number;
    if (this.#isEnding) return this.#answer(asked.number, shuttingDown("not-sent"), { isError: true });
    void this.#serve(asked, message);
  }

  /** Whatever goes wrong here is an answer: who asked is blocked until there is one. */
  async #serve(asked: Asked, message: null | Uint8Array<ArrayBuffer> | Error): Promise<void> {
    const { number, kind } = asked;
    try {
      const value = await this.#carryOut(asked, this.#read(asked, message));
      this.#answer(number, value, { bytesAre: kind === "callBuffer" ? "bytes" : "text" });
    } catch (error) {
      this.#answer(number, error, { isError: true });
    }
    if (this.#area.listen()) this.receive(null);
  }

  #read({ bytes }: Asked, message: null | Uint8Array<ArrayBuffer> | Error): unknown {
    return crossing("request", () => {
      if (message instanceof Error) throw message;
      return message === null ? readSync(this.#area.data, bytes) : readSync(Buffer.from(message.buffer));
    });
  }

  #carryOut({ kind, client }: Asked, request: unknown): Promise<unknown> {
    if (kind === "open") return this.#openLine(request as SyncOpen);
    const line = this.#lines.get(client);
    if (!line) return Promise.reject(new NotSentError("this client is closed", { outcome: "not-sent" }));
    if (kind !== "close") return line.run(kind, request);
    this.#lines.delete(client);
    return line.close(request as number);
  }

  async #openLine({ timeoutMs }: SyncOpen): Promise<unknown> {
    const { options, config } = await this.#setup;
    const commandTimeoutMs = timeoutMs ?? config.redis.commandTimeoutMs;
    const redis = { ...config.redis, commandTimeoutMs };
    // Nobody is blocked for longer by a connect than by a command.
    const retry = { ...config.retry, deadlineMs: Math.min(config.retry.deadlineMs, commandTimeoutMs) };
    const line = await SyncConnection.open({ ...options, redis, retry }, config.shutdown.closeMs);
    this.#lines.set(++this.#lastLine, line);
    return { client: this.#lastLine, timeoutMs: commandTimeoutMs, closeMs: config.shutdown.closeMs };
  }

  /** One answer to each request: what comes later, after the helper was told to end it, is of use to nobody. */
  #answer(number: number, value: unknown, { isError = false, bytesAre }: How): void {
    if (this.#open !== number) return;
    let answer: Answer;
    try {
      answer = { isError, bytes: crossing("reply", () => this.#write(value, bytesAre)) };
    } catch (error) {
      answer = { isError: true, bytes: this.#write(error) };
    }
    this.#open = undefined;
    this.#area.answer(number, answer);
  }

  #write(value: unknown, bytesAre?: How["bytesAre"]): number {
    const written = this.#writer.write(value, bytesAre);
    if (typeof written === "number") return written;
    this.#data.replies.postMessage(written, [written.buffer]);
    return BY_PORT;
  }

  #giveUpIdle(): void {
    for (const line of this.#lines.values()) line.giveUpIdle();
  }

  /** The manager closes and the calling thread, blocked in a call, cannot hear of it. */
  #end(): void {
    this.#isEnding = true;
    // Not without a request: the thread may be reading the last answer.
    if (this.#open !== undefined) this.#answer(this.#open, shuttingDown("unknown"), { isError: true });
    void this.#closeLines(0); // nobody waits for what is under way: QUIT would be answered behind it
  }

  async #close(ms: number): Promise<void> {
    await this.#closeLines(ms);
    process.exit();
  }

  async #closeLines(ms: number): Promise<void> {
    await Promise.all([...this.#lines.values()].map((line) => line.close(ms)));
  }
}

type Answer = Parameters<SyncArea["answer"]>[1];

interface How {
  readonly isError?: boolean;
  readonly bytesAre?: "bytes" | "text";
}

interface Setup {
  readonly config: Config;
  readonly options: Omit<OpenOptions, "redis" | "retry">;
}

/** In a thread that no manager started the configuration is the environment's, and only then dotenv is loaded. */
async function setUp({ managed, threadId }: HelperData): Promise<Setup> {
  const role = "sync";
  if (!managed) {
    const config = (await import("../config/env.js")).loadConfig();
    const name = connectionName(config.appName, role, threadId);
    return { config, options: { role, name, logger: noopLogger, gate: ownGate(config) } };
  }
  const { port, ledger, hasProvider } = managed;
  const config = freezeConfig(managed.config);
  const row = new LedgerRow(ledger, managed.row);
  const post = (message: FromHelper): void => port.postMessage(message);
  const options: Setup["options"] = {
    role,
    name: connectionName(config.appName, role, threadId),
    logger: loggerTo(post, config),
    gate: new ConnectGate(managed.gate, config, ConnectGate.helperRow(config, row.index)),
    logins: hasProvider ? loginsFrom(port, post) : undefined,
    onState: (state, previous) => {
      if (previous === "connected") row.add("syncOpen", -1);
      if (state === "connected") row.add("syncOpen", 1);
    },
  };
  return { config, options };
}

function loginsFrom(port: MessagePort, post: (message: FromHelper) => void): Logins {
  const logins = new Logins((refused) => post({ type: "loginWanted", refused }));
  port.on("message", (message: ToHelper) => {
    if (message.type === "login") logins.came(message.login);
    if (message.type === "loginFailed") logins.failed(fromErrorData(message.error));
  });
  return logins;
}

function loggerTo(post: (message: FromHelper) => void, { log }: Config): Logger {
  return loggerOf((level, message, fields) => {
    if (!isLogged(level, log.level)) return;
    post({ type: "logs", records: [{ level, message, fields: plainFields(fields) }], dropped: 0 });
  });
}

function shuttingDown(outcome: "not-sent" | "unknown"): ShuttingDownError {
  return new ShuttingDownError("the manager closes, and this thread was blocked in a synchronous call", { outcome });
}
