import { threadId } from "node:worker_threads";
import { acquireChannel, leaseChannel, Trace } from "../core/channels.js";
import type { ResolvedOptions } from "./pool-options.js";

/** A client that is yours until you give it back. */
export interface Lease<T> extends AsyncDisposable {
  readonly client: T;
  /** Gives the client back. Idempotent; never rejects. Settles once the next caller can have it, or its closing has begun. */
  release(): Promise<void>;
  /** Gives back a client that must not be used again. Idempotent; never rejects. Settles once its closing has begun. */
  destroy(): Promise<void>;
}

export class ClientLease<T> implements Lease<T> {
  readonly client: T;
  onReturn: (() => void) | undefined;
  readonly #giveBack: (isReusable: boolean) => Promise<void> | void;
  #returned: Promise<void> | undefined;

  constructor(client: T, giveBack: (isReusable: boolean) => Promise<void> | void) {
    this.client = client;
    this.#giveBack = giveBack;
  }

  release(): Promise<void> {
    return (this.#returned ??= this.#end(true));
  }

  destroy(): Promise<void> {
    return (this.#returned ??= this.#end(false));
  }

  async #end(isReusable: boolean): Promise<void> {
    this.onReturn?.();
    await this.#giveBack(isReusable);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}

/** Reports each lease that is held for too long, once, with the stack of its `acquire`; and again when it comes back. */
export class LeakWatch {
  readonly #warnMs: number;
  readonly #options: Pick<ResolvedOptions, "name" | "logger" | "now">;
  readonly #stats: () => object;
  readonly #timers = new Set<NodeJS.Timeout>();

  /** `stats` gives the pool's numbers for each log line. */
  constructor(warnMs: number, options: Pick<ResolvedOptions, "name" | "logger" | "now">, stats: () => object) {
    this.#warnMs = warnMs;
    this.#options = options;
    this.#stats = stats;
  }

  /** Starts with a lease; the returned function ends the watch when the lease comes back. */
  start(acquired: Error | undefined): () => void {
    const { name, logger, now } = this.#options;
    const since = now();
    const fields = () => ({ name, ...this.#stats(), heldMs: Math.round(now() - since) });
    let isReported = false;
    const timer = setTimeout(() => {
      isReported = true;
      logger.warn("a lease has not come back", { ...fields(), stack: acquired?.stack });
    }, this.#warnMs).unref();
    this.#timers.add(timer);
    return () => {
      clearTimeout(timer);
      this.#timers.delete(timer);
      if (isReported) logger.info("a lease came back after all", fields());
    };
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }
}

/** Publishes on `redthread:acquire`. */
export function traceAcquire<T>(acquiring: Promise<T> | T): Promise<T> {
  return new Trace(acquireChannel, { threadId }).during(async () => acquiring);
}

/** Publishes on `redthread:lease`. */
export function traceLease<T>(lease: ClientLease<T>): void {
  const trace = new Trace(leaseChannel, { threadId });
  const { onReturn } = lease;
  lease.onReturn = () => {
    onReturn?.();
    trace.done();
  };
  trace.start(() => {});
}
