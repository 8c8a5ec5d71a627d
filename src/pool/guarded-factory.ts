import { abortable, sleep, waitAtMost, within } from "../core/waiting.js";
import { backoffMs } from "../core/clock.js";

/** What a pool has to be told about its clients. */
export interface PoolFactory<T> {
  /** One attempt, with its own connect timeout. The signal aborts when the pool closes or gives the attempt up. */
  open(signal: AbortSignal): Promise<T>;
  /** Free and synchronous: what is known to be dead is not handed out, kept or checked. */
  isAlive(client: T): boolean;
  /** Asked after idleness only; anything but `true` within `judgeMs` means dead. */
  check(client: T): Promise<boolean>;
  /**
   * On return: `true`, at once or within `judgeMs`, means clean, keep it; anything else destroys the client. With
   * `isAwaited` another holder gets it next, at once.
   */
  reset(client: T, isAwaited: boolean): boolean | Promise<boolean>;
  /** Settles once the socket is gone: until then the client counts in `max`. */
  close(client: T): Promise<void>;
}

export interface GuardedFactoryOptions {
  name: string;
  /** Limit of one attempt to open, should the factory keep none. */
  openMs: number;
  /** Limit of one check or reset, and of what an attempt that was given up takes to let go of its socket. */
  judgeMs: number;
  retry: { baseDelayMs: number; maxDelayMs: number };
  now: () => number;
  random: () => number;
}

/** A factory that cannot throw its pool off: attempts are paced and limited, a throw or silence is a no, nothing late stays open. */
export class GuardedFactory<T> {
  /** The last thing that went wrong since a client was found good. */
  lastError: unknown;
  readonly #factory: PoolFactory<T>;
  readonly #options: GuardedFactoryOptions;
  #failures = 0;
  #failedAt = 0;

  constructor(factory: PoolFactory<T>, options: GuardedFactoryOptions) {
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

  /** One attempt; aborting it rejects with the signal's reason. */
  async open(attempt: AbortController): Promise<T> {
    const { name, openMs, judgeMs } = this.#options;
    const hung = (): Error => new Error(`a ${name} was still connecting after ${openMs} ms`);
    const opening = this.#factory.open(attempt.signal);
    try {
      return await abortable(within(opening, openMs, hung), attempt.signal);
    } catch (error) {
      attempt.abort(error);
      // Its socket counts until it has let go of it, but one that never does must not cost the pool a slot for good.
      await waitAtMost(judgeMs, this.#undo(opening));
      throw error;
    }
  }

  failed(error: unknown): void {
    this.#failures++;
    this.#failedAt = this.#options.now();
    this.lastError = error;
  }

  /** Only a client found good ends the pacing: one that was merely opened may be dead on arrival, every time. */
  passed(): void {
    this.#failures = 0;
    this.lastError = undefined;
  }

  isAlive(client: T): boolean {
    try {
      const answer: unknown = this.#factory.isAlive(client);
      return answer === true;
    } catch (error) {
      this.lastError = error;
      return false;
    }
  }

  check(client: T): boolean | Promise<boolean> {
    return this.#ask("check", () => this.#factory.check(client));
  }

  reset(client: T, isAwaited: boolean): boolean | Promise<boolean> {
    return this.#ask("reset", () => this.#factory.reset(client, isAwaited));
  }

  /** Never rejects: a client that cannot be closed politely is gone all the same. */
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
      return answer instanceof Promise ? this.#hear(question, answer) : answer === true;
    } catch (error) {
      this.lastError = error;
      return false;
    }
  }

  async #hear(question: "check" | "reset", answer: Promise<unknown>): Promise<boolean> {
    const { name, judgeMs } = this.#options;
    const silent = (): Error => new Error(`the ${question} of a ${name} took more than ${judgeMs} ms`);
    try {
      return (await within(answer, judgeMs, silent)) === true;
    } catch (error) {
      this.lastError = error;
      return false;
    }
  }

  async #undo(opening: Promise<T>): Promise<void> {
    let late: T;
    try {
      late = await opening;
    } catch {
      return; // it failed: nothing arrived
    }
    await this.close(late);
  }
}
