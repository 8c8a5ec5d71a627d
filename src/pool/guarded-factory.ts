import { backoffMs } from "../core/clock.js";
import { abortable, sleep, waitAtMost, within } from "../core/waiting.js";
import type { PoolFactory, ResolvedOptions } from "./pool-options.js";

/**
 * A PoolFactory whose faults cannot harm the pool: attempts are paced and limited in time, an exception or silence
 * counts as "no", and a client that arrives too late is closed.
 */
export class GuardedFactory<T> {
  /** The last failure since a client was found good. */
  lastError: unknown;
  readonly #factory: PoolFactory<T>;
  readonly #options: ResolvedOptions;
  #failures = 0;
  #failedAt = 0;

  constructor(factory: PoolFactory<T>, options: ResolvedOptions) {
    this.#factory = factory;
    this.#options = options;
  }

  /** Waits between a failure and the next attempt. */
  async pause(signal: AbortSignal): Promise<void> {
    if (this.#failures === 0) return;
    const { now, random, retry } = this.#options;
    const passedMs = now() - this.#failedAt;
    await sleep(Math.max(0, backoffMs(this.#failures, retry, random) - passedMs), signal);
  }

  /** Makes one attempt; aborting it rejects with the signal's reason. */
  async open(attempt: AbortController): Promise<T> {
    const { name, acquireTimeoutMs, judgeMs } = this.#options;
    const hung = (): Error => new Error(`a ${name} was still connecting after ${acquireTimeoutMs} ms`);
    const opening = this.#factory.open(attempt.signal);
    try {
      return await abortable(within(opening, acquireTimeoutMs, hung), attempt.signal);
    } catch (error) {
      attempt.abort(error);
      // The socket of the attempt counts in `max` until it is closed, but not for ever if the attempt never ends.
      await waitAtMost(
        judgeMs,
        opening.then((late) => this.close(late)),
      );
      throw error;
    }
  }

  failed(error: unknown): void {
    this.#failures++;
    this.#failedAt = this.#options.now();
    this.lastError = error;
  }

  /** Ends the pauses. A client that was merely opened does not: it may be dead on arrival, every time. */
  passed(): void {
    this.#failures = 0;
    this.lastError = undefined;
  }

  isAlive(client: T): boolean {
    try {
      const answer: unknown = this.#factory.isAlive(client);
      return answer === true;
    } catch (error) {
      return this.#no(error);
    }
  }

  check(client: T): boolean | Promise<boolean> {
    return this.#ask("check", () => this.#factory.check(client));
  }

  reset(client: T, isAwaited: boolean): boolean | Promise<boolean> {
    return this.#ask("reset", () => this.#factory.reset(client, isAwaited));
  }

  /** Never rejects: a client that cannot be closed properly is gone all the same. */
  async close(client: T): Promise<void> {
    try {
      await this.#factory.close(client);
    } catch (error) {
      this.lastError = error;
    }
  }

  #ask(question: "check" | "reset", ask: () => unknown): boolean | Promise<boolean> {
    try {
      const answer = ask();
      if (!(answer instanceof Promise)) return answer === true;
      const { name, judgeMs } = this.#options;
      const silent = (): Error => new Error(`the ${question} of a ${name} took more than ${judgeMs} ms`);
      return within(answer, judgeMs, silent).then(
        (value) => value === true,
        (error) => this.#no(error),
      );
    } catch (error) {
      return this.#no(error);
    }
  }

  #no(error: unknown): false {
    this.lastError = error;
    return false;
  }
}
