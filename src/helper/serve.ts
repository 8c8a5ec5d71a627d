// helper is the thread that does the I/O while a thread of tasks is blocked in its synchronous calls (redthread/sync).
// Start here: SyncServer takes one request at a time out of the memory it shares with the calling thread, and answers it;
// sync-connection.ts carries it out. The room may import near and everything below it, and never main or thread.
import { parentPort, workerData } from "node:worker_threads";
import type { OpenOptions } from "../clients/open-client.js";
import type { RedisHandle } from "../commands/ioredis.js";
import { type Config, freezeConfig } from "../config/options.js";
import { Logins } from "../connection/credentials.js";
import { NotSentError, ShuttingDownError } from "../core/errors.js";
import { isLogged, loggerOf, noopLogger, plainFields } from "../core/log.js";
import { connectionName } from "../core/names.js";
import { ConnectGate, ownGate } from "../gate/connect-gate.js";
import { fromErrorData } from "../link/error-serialization.js";
import { LedgerRow } from "../link/ledger.js";
import type { FromHelper, HelperData, SyncOpen, ToHelper, ToHelperFromCaller } from "../link/protocol.js";
import { type Asked, BY_PORT, SyncArea } from "../link/sync-area.js";
import { crossing, readSync, SyncWriter } from "../link/sync-codec.js";
import type { NearBuffers } from "../near/near-buffers.js";
import { SyncConnection } from "./sync-connection.js";

/** Serves the requests of the thread that started this helper, until that thread says close or ends. */
export function serveCalls(): void {
  const helper = new SyncServer(workerData as HelperData);
  parentPort!.on("message", (message: ToHelperFromCaller) => helper.receive(message));
  parentPort!.on("messageerror", (error) => helper.receive(error));
}

class SyncServer {
  readonly #data: HelperData;
  readonly #area: SyncArea;
  readonly #writer: SyncWriter;
  /** By the number that the calling thread has for each of its clients. */
  readonly #connections = new Map<number, SyncConnection>();
  readonly #setup: Promise<Setup>;
  #lastClient = 0;
  /** The number of the request that is not answered yet. */
  #unanswered: number | undefined;
  #isEnding = false;

  constructor(data: HelperData) {
    this.#data = data;
    this.#area = new SyncArea(data.area);
    this.#writer = new SyncWriter(this.#area.data);
    this.#setup = setUp(data, async () => [...this.#connections.values()][0]!.redis);
    this.#setup.then(
      ({ options }) =>
        options.gate.whenWanted(() => {
          for (const connection of this.#connections.values()) connection.giveUpIdle();
        }),
      () => {}, // each request to open a client is answered with it
    );
    data.managed?.port.on("message", (message: ToHelper) => {
      if (message.type === "end") this.#end();
    });
  }

  /** An error stands for a request that came and could not be read. */
  receive(message: ToHelperFromCaller | Error): void {
    if (message !== null && "closeMs" in message) return void this.#close(message.closeMs);
    const asked = this.#area.take();
    this.#unanswered = asked.number;
    if (this.#isEnding) this.#answer(asked.number, shuttingDown("not-sent"), { isError: true });
    else void this.#serve(asked, message);
  }

  /** Whatever goes wrong here becomes an answer, because the calling thread is blocked until there is one. */
  async #serve(asked: Asked, message: null | Uint8Array<ArrayBuffer> | Error): Promise<void> {
    const { number, kind, bytes } = asked;
    try {
      const request = crossing("request", () => {
        if (message instanceof Error) throw message;
        return message === null ? readSync(this.#area.data, bytes) : readSync(Buffer.from(message.buffer));
      });
      const value = await this.#carryOut(asked, request);
      this.#answer(number, value, { bytesAre: kind === "callBuffer" ? "bytes" : "text" });
    } catch (error) {
      this.#answer(number, error, { isError: true });
    }
    if (this.#area.listen()) this.receive(null);
  }

  async #carryOut({ kind, client }: Asked, request: unknown): Promise<unknown> {
    if (kind === "open") return this.#openClient(request as SyncOpen);
    const connection = this.#connections.get(client);
    if (!connection) throw new NotSentError("this client is closed", { outcome: "not-sent" });
    if (kind !== "close") return connection.run(kind, request);
    this.#connections.delete(client);
    return connection.close(request as number);
  }

  async #openClient({ timeoutMs }: SyncOpen): Promise<unknown> {
    const { options, config } = await this.#setup;
    const commandTimeoutMs = timeoutMs ?? config.redis.commandTimeoutMs;
    const redis = { ...config.redis, commandTimeoutMs };
    // A connect blocks its thread no longer than a command does.
    const retry = { ...config.retry, deadlineMs: Math.min(config.retry.deadlineMs, commandTimeoutMs) };
    const { closeMs } = config.shutdown;
    const connection = await SyncConnection.open({ ...options, redis, retry }, closeMs);
    this.#connections.set(++this.#lastClient, connection);
    return { client: this.#lastClient, timeoutMs: commandTimeoutMs, closeMs };
  }

  /** Answers each request once: after the helper was told to end a call, its own answer comes too late. */
  #answer(
    number: number,
    value: unknown,
    { isError = false, bytesAre }: { readonly isError?: boolean; readonly bytesAre?: "bytes" | "text" },
  ): void {
    if (this.#unanswered !== number) return;
    let answer: Parameters<SyncArea["answer"]>[1];
    try {
      answer = { isError, bytes: crossing("reply", () => this.#write(value, bytesAre)) };
    } catch (error) {
      answer = { isError: true, bytes: this.#write(error) };
    }
    this.#unanswered = undefined;
    this.#area.answer(number, answer);
  }

  #write(value: unknown, bytesAre?: "bytes" | "text"): number {
    const written = this.#writer.write(value, bytesAre);
    if (typeof written === "number") return written;
    this.#data.replies.postMessage(written, [written.buffer]);
    return BY_PORT;
  }

  /** The manager closes, and the calling thread cannot receive its message because it is blocked in a call. */
  #end(): void {
    this.#isEnding = true;
    // Without a request nothing is written: the thread may be reading the last answer.
    if (this.#unanswered !== undefined) this.#answer(this.#unanswered, shuttingDown("unknown"), { isError: true });
    void this.#closeConnections(0); // without QUIT, which would be answered after the call that is pending
  }

  async #close(ms: number): Promise<void> {
    await this.#closeConnections(ms);
    process.exit();
  }

  async #closeConnections(ms: number): Promise<void> {
    await Promise.all([...this.#connections.values()].map((connection) => connection.close(ms)));
  }
}

interface Setup {
  readonly config: Config;
  readonly options: Omit<OpenOptions, "redis" | "retry">;
}

/** In a thread that no manager started, the environment is the configuration, and only then is dotenv loaded. */
async function setUp({ managed, threadId }: HelperData, getRedis: () => Promise<RedisHandle>): Promise<Setup> {
  const config = managed ? freezeConfig(managed.config) : (await import("../config/env.js")).loadConfig();
  const role = "sync";
  const name = connectionName(config.appName, role, threadId);
  if (!managed) return { config, options: { role, name, logger: noopLogger, gate: ownGate(config) } };
  const { port, ledger, hasProvider, near } = managed;
  const row = new LedgerRow(ledger, managed.row);
  const post = (message: FromHelper): void => port.postMessage(message);
  const options: Setup["options"] = {
    role,
    name,
    logger: loggerOf((level, message, fields) => {
      if (!isLogged(level, config.log.level)) return;
      post({ type: "logs", records: [{ level, message, fields: plainFields(fields) }], dropped: 0 });
    }),
    gate: new ConnectGate(managed.gate, config, ConnectGate.helperRow(config, row.index)),
    logins: hasProvider ? new Logins((refused) => post({ type: "loginWanted", refused })) : undefined,
    onState: (state, previous) => {
      if (previous === "connected") row.add("syncOpen", -1);
      if (state === "connected") row.add("syncOpen", 1);
    },
  };
  port.on("message", (message: ToHelper) => {
    if (message.type === "login") options.logins?.came(message.login);
    if (message.type === "loginFailed") options.logins?.failed(fromErrorData(message.error));
  });
  // Behind the listener, which else would miss the login that has come meanwhile.
  if (near) await watchWrites(near, config, getRedis);
  return { config, options };
}

/** As the writes of the calling thread, those of this one are seen by all threads at once. Loaded only with a near cache. */
async function watchWrites(near: NearBuffers, config: Config, getRedis: () => Promise<RedisHandle>): Promise<void> {
  const [{ NearMemory }, { watchOwnWrites }, { UnknownCommands }] = await Promise.all([
    import("../near/near-memory.js"),
    import("../near/own-writes.js"),
    import("../near/unknown-commands.js"),
  ]);
  const unknown = new UnknownCommands(getRedis);
  const onlyReads = (name: string): boolean => unknown.onlyReads(name);
  watchOwnWrites(new NearMemory(near), config.redis.keyPrefix, config.nearCache.prefixes!, onlyReads);
}

function shuttingDown(outcome: "not-sent" | "unknown"): ShuttingDownError {
  return new ShuttingDownError("the manager closes, and this thread was blocked in a synchronous call", { outcome });
}
