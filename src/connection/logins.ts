import type { Login } from "../config/options.js";
import { abortable, deferred } from "../core/waiting.js";
import { ConfigInvalidError } from "../core/errors.js";

/** What a thread knows of the process's logins: the latest, and how to ask for one that is not refused. */
export class Logins {
  readonly #want: (refused: number) => void;
  readonly #listeners = new Set<() => void>();
  #latest: Login | undefined;
  /** Why none has come since the latest. */
  #failure: unknown;
  #news = deferred();

  /** `want` asks whoever knows the provider for a login newer than `refused`; the answer is `came` or `failed`. */
  constructor(want: (refused: number) => void) {
    this.#want = want;
  }

  get latest(): Login | undefined {
    return this.#latest;
  }

  get failure(): unknown {
    return this.#failure;
  }

  /**
   * Waits for a login newer than the version `refused`; 0 is content with any. A provider that fails is waited for,
   * one that gives something else than credentials is not.
   */
  async newerThan(refused: number, signal: AbortSignal): Promise<Login> {
    for (;;) {
      if (this.#latest && this.#latest.version > refused) return this.#latest;
      this.#want(refused);
      await abortable(this.#news.promise, signal);
    }
  }

  /** Calls `onLogin` for each new one; returns the way to stop that. */
  listen(onLogin: () => void): () => void {
    this.#listeners.add(onLogin);
    return () => this.#listeners.delete(onLogin);
  }

  came(login: Login): void {
    if (this.#latest && login.version <= this.#latest.version) return;
    this.#latest = login;
    this.#failure = undefined;
    const news = this.#news;
    this.#news = deferred();
    news.resolve();
    for (const onLogin of this.#listeners) onLogin();
  }

  failed(failure: unknown): void {
    this.#failure = failure;
    if (!(failure instanceof ConfigInvalidError)) return;
    const news = this.#news;
    this.#news = deferred();
    news.promise.catch(() => {}); // perhaps nobody waits
    news.reject(failure);
  }
}
