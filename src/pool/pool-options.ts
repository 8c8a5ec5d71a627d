import type { Logger } from "../core/log.js";

/** The functions that a pool needs to make, judge and end its clients. */
export interface PoolFactory<T> {
  /** Makes one attempt, with its own connect timeout. The signal aborts when the pool closes or gives the attempt up. */
  open(signal: AbortSignal): Promise<T>;
  /** Cheap and synchronous. A client that is known to be dead is not handed out, kept or checked. */
  isAlive(client: T): boolean;
  /** Called only after the client was idle for a while; anything but `true` within `judgeMs` means dead. */
  check(client: T): Promise<boolean>;
  /**
   * Called when a client comes back. `true`, at once or within `judgeMs`, means that it is clean and can be kept;
   * anything else destroys it. With `isAwaited` the next holder gets it at once.
   */
  reset(client: T, isAwaited: boolean): boolean | Promise<boolean>;
  /** Settles once the socket is gone: until then the client counts in `max`. */
  close(client: T): Promise<void>;
}

export interface PoolOptions {
  /** What the clients are called in errors, e.g. "dedicated client". */
  name: string;
  max: number;
  /** One budget for waiting, connecting and validating. */
  acquireTimeoutMs: number;
  idleTimeoutMs: number;
  /** Each client draws 75–100 % of it, so that a pool filled at once is not emptied at once. */
  maxLifetimeMs: number;
  /** A client that was idle for longer is checked before it is handed out. */
  idleCheckMs: number;
  /** A lease held for longer is logged as a warning, once, with the stack of its acquire. Default: never. */
  leakWarnMs?: number;
  logger?: Logger;
  retry: { baseDelayMs: number; maxDelayMs: number };
  /** The limit of one `check` or `reset`. Default: 5 s, never more than half of `acquireTimeoutMs`. */
  judgeMs?: number;
  now?: () => number;
  random?: () => number;
  /** Says why an attempt that has not failed yet takes so long; becomes the cause of a timeout. */
  explain?(): unknown;
  onClosed?(reason: CloseReason): void;
  /** A caller waited for all of `acquireTimeoutMs` in vain. */
  onTimeout?(): void;
}

/** The options with their defaults. */
export type ResolvedOptions = PoolOptions & Required<Pick<PoolOptions, "judgeMs" | "logger" | "now" | "random">>;

/**
 * Why a client was closed: it was idle for too long, or its connection was needed elsewhere (`idle`); it was past its
 * lifetime; its state could not be repaired, or the credentials changed while it was lent (`dirty`); it was found dead;
 * it was never connected, or dead on arrival (`failed`); or the pool was closed (`shutdown`).
 */
export type CloseReason = "idle" | "lifetime" | "dirty" | "dead" | "failed" | "shutdown";
