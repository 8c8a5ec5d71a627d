import { ConfigInvalidError, NotSentError } from "../../core/errors.js";
import type { SyncOpened } from "../../link/protocol.js";
import { managed } from "../managed.js";
import { requestOf, requestsOf } from "./sync-arguments.js";
import { SyncHelper } from "./sync-helper.js";

/**
 * As with the asynchronous client: a Buffer is sent as its bytes, everything else as text. Values of other types are
 * stored as `redis.call()` of ioredis stores them, a view that is no Buffer as "65,66".
 */
export type SyncArgument = string | number | Buffer;
/** The command's name and its arguments. */
export type SyncCommand = readonly [name: string, ...args: SyncArgument[]];

export interface SyncOptions {
  /**
   * Of every call, and of the connect in `openSync`, from 10 ms. As with any client a large reply that is still arriving
   * is waited for, at most once more as long. Default `redis.commandTimeoutMs`.
   */
  readonly timeoutMs?: number | undefined;
}

/** For a helper that is starting: its modules are loaded from disk, perhaps on a busy machine. */
const START_MS = 10_000;
/** A connect, a command, its large reply: three deadlines at most, and then the helper is given this to answer. */
const HELPER_MS = 1_000;
/** Where the configuration is not known here; the helper finds out. */
const UNKNOWN_MS = 30_000;
const MAX_MS = 2 ** 31 - 1;

/**
 * A connection whose calls block this thread until the reply is here. While blocked, the thread serves none of its
 * sockets, timers or messages.
 *
 * Every call throws what the same call of a client of `getRedis()` rejects with: the server's `ReplyError`,
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

  /** Any command. Replies are what `redis.call()` of ioredis resolves to: bulk replies as strings. */
  call(name: string, ...args: SyncArgument[]): unknown {
    return this.#ask("call", requestOf([name, ...args]));
  }

  /** Any command, with bulk replies as Buffers. */
  callBuffer(name: string, ...args: SyncArgument[]): unknown {
    return this.#ask("callBuffer", requestOf([name, ...args]));
  }

  /**
   * Many commands in one round trip, to the helper and to Redis; with "multi" first and "exec" last a transaction. As
   * ioredis' `exec()`: `[error, result]` for each, and an exception only when the pipeline as a whole failed, as where a
   * "multi" has no "exec" behind it.
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

  /** `options` as in Redis: `"EX", 60, "NX"`. Null if NX or XX forbade it. */
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

  /** Says QUIT and gives the connection back, within `shutdown.closeMs`; idempotent, never throws. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { client, closeMs } = this.#opened!;
    if (this.#helper!.isGone) return; // and its connections with it
    try {
      this.#helper!.ask("close", client, closeMs, closeMs + HELPER_MS);
    } catch {
      // It ended meanwhile, or is being ended: the connection went with it.
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

/** Its stack began in the helper; where the call was made is what helps. */
function atCall(error: unknown): unknown {
  if (error instanceof Error) Error.captureStackTrace(error, atCall);
  return error;
}
