import { ConfigInvalidError, NotSentError } from "../../core/errors.js";
import type { SyncOpened } from "../../link/protocol.js";
import { requestOf, requestsOf } from "./sync-arguments.js";
import { SyncHelper } from "./sync-helper.js";
import { managed } from "./sync-registry.js";

/**
 * A Buffer is sent as its bytes and everything else as text, as by the asynchronous client. Values of other types are
 * stored as `redis.call()` of ioredis stores them, for example a view that is no Buffer as "65,66".
 */
export type SyncArgument = string | number | Buffer;
/** A command's name and its arguments. */
export type SyncCommand = readonly [name: string, ...args: SyncArgument[]];

export interface SyncOptions {
  /**
   * The time limit of every call, and of the connect in `openSync`, at least 10 ms. A large reply that is still arriving
   * gets at most the same time once more, as with any client. Default `redis.commandTimeoutMs`.
   */
  readonly timeoutMs?: number | undefined;
}

/** A starting helper has this long, because its modules are loaded from disk, perhaps on a busy machine. */
const START_MS = 10_000;
/** A call has at most three deadlines (connect, command, large reply); after them the helper has this long to answer. */
const HELPER_MS = 1_000;
/** Used where only the helper knows the configuration. */
const UNKNOWN_MS = 30_000;
const MAX_MS = 2 ** 31 - 1;

/**
 * A connection whose calls block this thread until the reply has arrived. While it is blocked, the thread serves none of
 * its sockets, timers or messages.
 *
 * Every call throws the error that the same call of a client of `getRedis()` rejects with: the server's `ReplyError`,
 * REDTHREAD_COMMAND_TIMEOUT, REDTHREAD_NOT_SENT, REDTHREAD_REPLY_LOST (also when the helper thread ended),
 * REDTHREAD_NEEDS_DEDICATED for what blocks or changes the connection, REDTHREAD_CIRCUIT_OPEN with `whenDown: "fail"`,
 * REDTHREAD_NOT_CLONEABLE for an argument that has no text, a callback, or a reply that cannot cross between the threads,
 * REDTHREAD_SHUTTING_DOWN, and REDTHREAD_CONNECT_FAILED or REDTHREAD_AUTH_FAILED when it has to connect anew.
 */
export class SyncClient implements Disposable {
  readonly #timeoutMs: number | undefined;
  #helper: SyncHelper | undefined;
  #opened: SyncOpened | undefined;
  #isClosed = false;

  constructor({ timeoutMs }: SyncOptions = {}) {
    if (timeoutMs !== undefined && !(timeoutMs >= 10 && timeoutMs <= MAX_MS)) {
      throw new ConfigInvalidError(`timeoutMs must be between 10 and ${MAX_MS} ms, not ${timeoutMs}`);
    }
    this.#timeoutMs = timeoutMs;
    this.#open();
  }

  /** Runs any command. Replies are what `redis.call()` of ioredis resolves to, with bulk replies as strings. */
  call(name: string, ...args: SyncArgument[]): unknown {
    return this.#ask("call", requestOf([name, ...args]));
  }

  /** Runs any command, with bulk replies as Buffers. */
  callBuffer(name: string, ...args: SyncArgument[]): unknown {
    return this.#ask("callBuffer", requestOf([name, ...args]));
  }

  /**
   * Runs many commands in one round trip to the helper and to Redis. With "multi" first and "exec" last it is a transaction.
   * Gives `[error, result]` for each command, as ioredis' `exec()`. It throws only when the pipeline as a whole fails, for
   * example when a "multi" has no "exec" after it.
   */
  pipeline(commands: readonly SyncCommand[]): [error: Error | null, result: unknown][] {
    return this.#ask("pipeline", requestsOf(commands)) as [Error | null, unknown][];
  }

  get(key: string): string | null {
    return this.call("get", key) as string | null;
  }

  getBuffer(key: string): Buffer | null {
    return this.callBuffer("get", key) as Buffer | null;
  }

  /** `options` are those of Redis: `"EX", 60, "NX"`. Null if NX or XX forbade it. */
  set(key: string, value: SyncArgument, ...options: SyncArgument[]): string | null {
    return this.call("set", key, value, ...options) as string | null;
  }

  del(...keys: string[]): number {
    return this.call("del", ...keys) as number;
  }

  exists(...keys: string[]): number {
    return this.call("exists", ...keys) as number;
  }

  /** In seconds; 1 if the key exists. */
  expire(key: string, seconds: number): number {
    return this.call("expire", key, seconds) as number;
  }

  incr(key: string): number {
    return this.call("incr", key) as number;
  }

  incrby(key: string, by: number): number {
    return this.call("incrby", key, by) as number;
  }

  mget(...keys: string[]): (string | null)[] {
    return this.call("mget", ...keys) as (string | null)[];
  }

  hget(key: string, field: string): string | null {
    return this.call("hget", key, field) as string | null;
  }

  hgetall(key: string): Record<string, string> {
    return this.call("hgetall", key) as Record<string, string>;
  }

  hset(key: string, fields: Readonly<Record<string, SyncArgument>>): number {
    return this.#ask("call", requestOf(["hset", key, fields])) as number;
  }

  /** Sends QUIT and closes the connection, within `shutdown.closeMs`; idempotent, never throws. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { client, closeMs } = this.#opened!;
    if (this.#helper!.isGone) return; // its connections went with it
    try {
      this.#helper!.ask("close", client, closeMs, closeMs + HELPER_MS);
    } catch {
      // The helper ended meanwhile, or is being ended, and the connection with it.
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  #ask(kind: "call" | "callBuffer" | "pipeline", request: unknown): unknown {
    if (this.#isClosed) throw new NotSentError("this synchronous client is closed", { outcome: "not-sent" });
    try {
      if (this.#helper!.isGone) this.#open();
      const { client, timeoutMs } = this.#opened!;
      return this.#helper!.ask(kind, client, request, 3 * timeoutMs + HELPER_MS);
    } catch (error) {
      throw atCall(error);
    }
  }

  #open(): void {
    const helper = SyncHelper.current();
    const timeoutMs = this.#timeoutMs ?? managed()?.config.redis.commandTimeoutMs ?? UNKNOWN_MS;
    const request = this.#timeoutMs === undefined ? {} : { timeoutMs: this.#timeoutMs };
    this.#opened = helper.ask("open", 0, request, START_MS + 3 * timeoutMs + HELPER_MS) as SyncOpened;
    this.#helper = helper;
  }
}

/** The stack began in the helper. The place of the call is what helps the reader. */
function atCall(error: unknown): unknown {
  if (error instanceof Error) Error.captureStackTrace(error, atCall);
  return error;
}
