import { threadId } from "node:worker_threads";
import { acquireChannel, leaseChannel, Trace } from "../core/channels.js";

/** A client that is yours until you give it back. */
export interface Lease<T> extends AsyncDisposable {
  readonly client: T;
  /** Idempotent; never rejects. Settles once the next can have the client, or its closing has begun. */
  release(): Promise<void>;
  /** For a client you know to be spoilt. Idempotent; never rejects. Settles once its closing has begun. */
  destroy(): Promise<void>;
}

export class ClientLease<T> implements Lease<T> {
  readonly client: T;
  /** Called when it comes back. */
  onReturn: (() => void) | undefined;
  readonly #giveBack: (isWanted: boolean) => Promise<void> | void;
  #returned: Promise<void> | undefined;

  constructor(client: T, giveBack: (isWanted: boolean) => Promise<void> | void) {
    this.client = client;
    this.#giveBack = giveBack;
  }

  release(): Promise<void> {
    return (this.#returned ??= this.#end(true));
  }

  destroy(): Promise<void> {
    return (this.#returned ??= this.#end(false));
  }

  async #end(isWanted: boolean): Promise<void> {
    this.onReturn?.();
    await this.#giveBack(isWanted);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}

/** For those who listen to `redthread:acquire`. */
export function traceAcquire<T>(acquiring: Promise<T> | T): Promise<T> {
  return new Trace(acquireChannel, { threadId }).during(async () => acquiring);
}

/** For those who listen to `redthread:lease`. */
export function traceLease<T>(lease: ClientLease<T>): void {
  const trace = new Trace(leaseChannel, { threadId });
  const { onReturn } = lease;
  lease.onReturn = () => {
    onReturn?.();
    trace.done();
  };
  trace.start(() => {});
}
