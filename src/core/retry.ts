import { randomUUID } from "node:crypto";
import { errorCode, isTold, noopLogger, type LogFields, type Logger } from "./log.js";
import { isFinal } from "./failures.js";
import { classifyReply, isReplyError } from "./replies.js";
import { backoffMs, monotonic } from "./clock.js";
import { sleep as timerSleep } from "./waiting.js";

export interface RetryOptions {
  /** Limit of all attempts and the waits between them. A running attempt is not cut off. Default 30 000. */
  readonly deadlineMs?: number | undefined;
  /** Ceiling of the first wait. It doubles with each attempt. Default 50. */
  readonly baseDelayMs?: number | undefined;
  /** Ceiling of every wait. Default 1 000. */
  readonly maxDelayMs?: number | undefined;
  /** Calls in all, the first one included. Default Infinity. */
  readonly attempts?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly logger?: Logger | undefined;
  /**
   * Default: true, except for bugs (TypeError …), codes that no repetition mends, replies that stay the same (WRONGTYPE, NOPERM …,
   * but not LOADING, READONLY or NOREPLICAS), and errors after which the work may have run already (`outcome: "unknown"`).
   * So nothing runs twice unless you say that it may.
   */
  readonly isRetryable?: ((error: unknown) => boolean) | undefined;
  readonly now?: (() => number) | undefined;
  readonly random?: (() => number) | undefined;
  readonly sleep?: ((ms: number, signal?: AbortSignal) => Promise<void>) | undefined;
}

/** The result of a wrapped function: an async generator stays one, every other result becomes a promise. */
export type Retried<R> = unknown extends R
  ? Promise<R>
  : [R] extends [never]
    ? Promise<never>
    : [R] extends [AsyncGenerator<infer T, infer Return, infer Next>]
      ? AsyncGenerator<T, Return, Next>
      : Promise<Awaited<R>>;

export type Retry = <This, Args extends unknown[], R>(
  fn: (this: This, ...args: Args) => R,
) => (this: This, ...args: Args) => Retried<R>;

/**
 * A function that retries `fn` until it succeeds, its error is final, or the deadline leaves no room for the next wait. It then
 * rejects with the error of the last attempt, unchanged, or with `signal.reason` once aborted. Waits are random between 0 and
 * their ceiling, so that clients which failed together do not return together. An `async function*` is retried before its
 * first item only.
 */
export function connRetry(resource: string, action: string, options: RetryOptions = {}): Retry {
  function retry<This, Args extends unknown[], R>(
    fn: (this: This, ...args: Args) => R,
  ): (this: This, ...args: Args) => Retried<R>;
  function retry(fn: AnyFunction): AnyFunction {
    if (isAsyncGeneratorFunction(fn)) {
      return async function* (...args) {
        const call = new RetriedCall(resource, action, options);
        return yield* retryFirstItem(call, () => fn.apply(this, args));
      };
    }
    return async function (...args) {
      const call = new RetriedCall(resource, action, options);
      const value = await call.attempt(async () => await fn.apply(this, args));
      call.complete();
      return value;
    };
  }
  return retry;
}

async function* retryFirstItem(call: RetriedCall, start: () => AsyncGenerator): AsyncGenerator {
  const { items, first } = await call.attempt(async () => {
    const started = start();
    return { items: started, first: await started.next() };
  });
  let head: IteratorResult<unknown> | undefined = first;
  const resumed: AsyncIterableIterator<unknown> = {
    async next(sent: unknown) {
      const item = head ?? (await items.next(sent));
      head = undefined;
      return item;
    },
    return: (value: unknown) => items.return(value),
    throw: (error: unknown) => items.throw(error),
    [Symbol.asyncIterator]: () => resumed,
  };

  let failed = false;
  try {
    return yield* resumed;
  } catch (error) {
    failed = true;
    call.fail(error);
    throw error;
  } finally {
    // Also reached when the consumer stops early.
    if (!failed) call.complete();
  }
}

/** One call of a wrapped function, with its id, clock and log lines. */
class RetriedCall {
  readonly #name: string;
  readonly #options: RetryOptions;
  readonly #logger: Logger;
  readonly #now: () => number;
  readonly #startedAt: number;
  readonly #fields: LogFields;
  #attempts = 0;

  constructor(resource: string, action: string, options: RetryOptions) {
    this.#name = `${resource}: ${action}`;
    this.#options = options;
    this.#logger = options.logger ?? noopLogger;
    this.#now = options.now ?? monotonic;
    this.#startedAt = this.#now();
    this.#fields = { resource, action, callId: randomUUID().slice(0, 8) };
  }

  async attempt<T>(fn: () => Promise<T>): Promise<T> {
    const { signal, sleep = timerSleep } = this.#options;
    this.#logger.debug(`${this.#name} started`, this.#fields);
    try {
      for (;;) {
        signal?.throwIfAborted();
        this.#attempts++;
        try {
          return await fn();
        } catch (error) {
          await sleep(this.#delayAfter(error), signal);
        }
      }
    } catch (error) {
      this.fail(error);
      throw error;
    }
  }

  complete(): void {
    const level = this.#attempts > 1 ? "info" : "debug";
    this.#logger[level](`${this.#name} completed`, { ...this.#fields, ...this.#progress() });
  }

  fail(error: unknown): void {
    const fields = { ...this.#fields, ...this.#progress(), code: errorCode(error) };
    // An abort is no failure of the resource.
    if (this.#options.signal?.aborted) this.#logger.debug(`${this.#name} called off`, fields);
    else this.#logger.error(`${this.#name} failed`, fields);
  }

  /** How long to wait before the next attempt. Throws the caller's error if there is none. */
  #delayAfter(error: unknown): number {
    const { deadlineMs = 30_000, baseDelayMs = 50, maxDelayMs = 1_000, attempts = Infinity } = this.#options;
    const { signal, isRetryable = isRetryableError, random } = this.#options;
    if (!isRetryable(error)) throw error;
    signal?.throwIfAborted();
    const delayMs = backoffMs(this.#attempts, { baseDelayMs, maxDelayMs }, random);
    const leftMs = this.#startedAt + deadlineMs - this.#now();
    if (this.#attempts >= attempts || delayMs >= leftMs) throw error;
    const level = isTold(this.#attempts) ? "warn" : "debug";
    this.#logger[level](`${this.#name} retrying`, {
      ...this.#fields,
      ...this.#progress(),
      code: errorCode(error),
      delayMs: Math.round(delayMs),
      leftMs: Math.round(leftMs),
    });
    return delayMs;
  }

  #progress(): LogFields {
    return { attempt: this.#attempts, elapsedMs: Math.round(this.#now() - this.#startedAt) };
  }
}

const BUGS: ReadonlySet<unknown> = new Set(["TypeError", "RangeError", "SyntaxError", "ReferenceError"]);

/** By code and name, not by `instanceof`, because some errors come from other realms. */
export function isRetryableError(error: unknown): boolean {
  if (typeof error !== "object" || error === null) return true;
  if (isReplyError(error)) return classifyReply(error) !== "fail";
  if (isFinal(error)) return false;
  const { name, outcome } = error as { name?: unknown; outcome?: unknown };
  return outcome !== "unknown" && !BUGS.has(name);
}

type AnyFunction = (this: unknown, ...args: unknown[]) => unknown;

function isAsyncGeneratorFunction(fn: AnyFunction): fn is (...args: unknown[]) => AsyncGenerator {
  return Object.prototype.toString.call(fn) === "[object AsyncGeneratorFunction]";
}
