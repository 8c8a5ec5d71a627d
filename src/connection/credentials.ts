import type { Credentials, CredentialsProvider, Login, RetryConfig } from "../config/options.js";
import { ConfigInvalidError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import { connRetry } from "../core/retry.js";
import { monotonic, randomBetween } from "../core/clock.js";
import { type Deferred, abortable, deferred, sleep, within } from "../core/waiting.js";

export interface KeeperOptions {
  readonly provider: CredentialsProvider;
  /** Limit of one call of the provider. */
  readonly limitMs: number;
  readonly retry: RetryConfig;
  readonly logger: Logger;
  /** A call of the provider failed; the next one follows. */
  readonly onFailure?: (error: unknown) => void;
}

/** Credentials are renewed after a random share of their lifetime, so that processes do not renew together. */
const RENEW_FROM = 0.7;
const RENEW_TO = 0.8;
/** The least time between two calls of the provider, whatever it or the server says. */
const SPACING_MS = 500;
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Calls the user's provider before credentials expire, and when a server refused them. One call at a time. */
export class CredentialKeeper {
  readonly logins = new Logins((refused) => this.renew(refused));
  readonly #options: KeeperOptions;
  readonly #life = new AbortController();
  #versions = 0;
  #isRenewing = false;
  #lastCallAt = -Infinity;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  /** Begins to fetch a login newer than the version `refused`, unless there is one. */
  renew(refused: number): void {
    if (this.#isRenewing || this.#life.signal.aborted || (this.logins.latest?.version ?? 0) > refused) return;
    void this.#renew();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#life.abort();
  }

  /** Never rejects; ends with a login or with `stop`. */
  async #renew(): Promise<void> {
    this.#isRenewing = true;
    const { retry, logger, onFailure } = this.#options;
    const isRetryable = (error: unknown): boolean => {
      this.logins.failed(error);
      onFailure?.(error);
      return true; // also a bug of the provider: a deployment, or its next answer, may mend it
    };
    const endless = { deadlineMs: Infinity, attempts: Infinity, signal: this.#life.signal };
    const fetching = connRetry("credentials", "asking the provider", { ...retry, ...endless, logger, isRetryable });
    await fetching(() => this.#fetch())().catch(() => {}); // stopped
    this.#isRenewing = false;
  }

  async #fetch(): Promise<void> {
    const { provider, limitMs } = this.#options;
    const pauseMs = this.#lastCallAt + SPACING_MS - monotonic();
    if (pauseMs > 0) await sleep(pauseMs, this.#life.signal);
    this.#lastCallAt = monotonic();
    const silent = (): Error => new Error(`redis.credentials gave no answer within ${limitMs} ms`);
    // `stop` ends the wait: the time limit of a provider that hangs would keep the process alive.
    const asked = abortable(
      (async () => provider())(), // async, so that a provider that throws has failed like a provider that rejects
      this.#life.signal,
    );
    const { username, password, expiresAt } = checked(await within(asked, limitMs, silent));
    if (expiresAt !== undefined) this.#renewBefore(Number(expiresAt));
    const version = ++this.#versions;
    this.logins.came({ version, password, ...(username !== undefined && { username }) });
  }

  #renewBefore(expiresAt: number): void {
    const leftMs = expiresAt - Date.now();
    if (leftMs <= 0) this.#options.logger.warn("credentials had expired when they came: is this host's clock right?");
    const share = randomBetween(RENEW_FROM, RENEW_TO);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.renew(this.#versions), Math.min(leftMs * share, MAX_TIMER_MS)).unref();
  }
}

/** What a thread knows of the process's logins: the latest login, and how to ask for a newer one. */
export class Logins {
  readonly #request: (refused: number) => void;
  readonly #listeners = new Set<() => void>();
  #latest: Login | undefined;
  /** Why no login has come since the latest. */
  #failure: unknown;
  #news = deferred();

  /** `request` asks the thread that knows the provider for a login newer than `refused`; it answers by `came` or `failed`. */
  constructor(request: (refused: number) => void) {
    this.#request = request;
  }

  get latest(): Login | undefined {
    return this.#latest;
  }

  get failure(): unknown {
    return this.#failure;
  }

  /**
   * A login newer than the version `refused`; with 0 any login will do. A provider that fails is waited for, but a
   * provider whose answer is not credentials rejects the wait.
   */
  async newerThan(refused: number, signal: AbortSignal): Promise<Login> {
    for (;;) {
      if (this.#latest && this.#latest.version > refused) return this.#latest;
      this.#request(refused);
      await abortable(this.#news.promise, signal);
    }
  }

  /** Calls `onLogin` for each new login; returns a function that ends this. */
  listen(onLogin: () => void): () => void {
    this.#listeners.add(onLogin);
    return () => this.#listeners.delete(onLogin);
  }

  came(login: Login): void {
    if (this.#latest && login.version <= this.#latest.version) return;
    this.#latest = login;
    this.#failure = undefined;
    this.#replaceNews().resolve();
    for (const onLogin of this.#listeners) onLogin();
  }

  failed(failure: unknown): void {
    this.#failure = failure;
    if (!(failure instanceof ConfigInvalidError)) return;
    const news = this.#replaceNews();
    news.promise.catch(() => {}); // perhaps nobody waits
    news.reject(failure);
  }

  #replaceNews(): Deferred<void> {
    const news = this.#news;
    this.#news = deferred();
    return news;
  }
}

function checked(answer: unknown): Credentials {
  const { username, password, expiresAt } = (answer ?? {}) as Partial<Record<keyof Credentials, unknown>>;
  const problems: string[] = [];
  if (typeof password !== "string" || password === "") problems.push("password must be text");
  if (username !== undefined && typeof username !== "string") problems.push("username must be text or undefined");
  if (expiresAt !== undefined && !isTime(expiresAt)) problems.push("expiresAt must be ms since the epoch, or a Date");
  if (problems.length === 0) return answer as Credentials;
  throw new ConfigInvalidError(`redis.credentials gave no credentials: ${problems.join("; ")}`, { problems });
}

function isTime(value: unknown): boolean {
  return (typeof value === "number" || value instanceof Date) && Number.isFinite(Number(value));
}
