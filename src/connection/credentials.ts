import type { Credentials, CredentialsProvider, RetryConfig } from "../config/options.js";
import { ConfigInvalidError } from "../core/errors.js";
import type { Logger } from "../core/log.js";
import { connRetry } from "../core/retry.js";
import { monotonic, randomBetween } from "../core/clock.js";
import { abortable, sleep, within } from "../core/waiting.js";
import { Logins } from "./logins.js";

export interface KeeperOptions {
  readonly provider: CredentialsProvider;
  /** Limit of one call of the provider. */
  readonly limitMs: number;
  readonly retry: RetryConfig;
  readonly logger: Logger;
  /** A call of the provider failed; the next one follows. */
  readonly onFailure?: (error: unknown) => void;
}

/** Credentials are renewed when this share of their time is over, at random: not all processes at once. */
const RENEW_FROM = 0.7;
const RENEW_TO = 0.8;
/** Between two calls of the provider, whatever it or the server says. */
const SPACING_MS = 500;
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Calls the users' provider: before the credentials expire, and when a server refused them. One call at a time. */
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

  /** Sees to a login newer than the version `refused`, unless it is there. */
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
    const { retry, logger } = this.#options;
    const options = { ...retry, deadlineMs: Infinity, attempts: Infinity, signal: this.#life.signal, logger };
    const isRetryable = (error: unknown): boolean => {
      this.logins.failed(error);
      this.#options.onFailure?.(error);
      return true; // also a bug of the provider: a deployment, or its next answer, may mend it
    };
    const fetching = connRetry("credentials", "asking the provider", { ...options, isRetryable });
    await fetching(() => this.#ask())().catch(() => {}); // stopped
    this.#isRenewing = false;
  }

  async #ask(): Promise<void> {
    const { provider, limitMs } = this.#options;
    const pauseMs = this.#lastCallAt + SPACING_MS - monotonic();
    if (pauseMs > 0) await sleep(pauseMs, this.#life.signal);
    this.#lastCallAt = monotonic();
    const silent = (): Error => new Error(`redis.credentials gave no answer within ${limitMs} ms`);
    // Stopped, it waits no longer: the time limit of a provider that hangs would keep the process alive.
    const asked = abortable(callProvider(provider), this.#life.signal);
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

/** A provider that throws instead of rejecting has failed all the same. */
async function callProvider(provider: CredentialsProvider): Promise<unknown> {
  return await provider();
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
