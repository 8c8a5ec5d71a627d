// The room src/clients makes clients for their owners: `open-client.ts` opens a Client or a ClusterClient, `connect.ts` is the
// public connect() of a single client, and SharedClient is what getRedis() returns the handle of. It may import cluster,
// connection, pool and everything below them. Start here.

import type { RedisHandle } from "../commands/ioredis.js";
import type { ConnectionState } from "../connection/connection-state.js";
import { outside, rotationChannel } from "../core/channels.js";
import { ShuttingDownError } from "../core/errors.js";
import { monotonic, randomBetween } from "../core/clock.js";
import { abortable, sleep } from "../core/waiting.js";
import type { AnyClient } from "./open-client.js";

/** A handle from `get()` can be used in its turn and for this long after it. */
const GRACE_MS = 1_000;

export interface SharedClientOptions {
  /**
   * A connected client, or its error; a failure or an abort leaves nothing open. The first client (`mayBeAway`) need not be
   * connected yet where Redis is known to be away.
   */
  readonly open: (signal: AbortSignal, mayBeAway: boolean) => Promise<AnyClient>;
  /** How long a client is handed out before it is replaced. Default Infinity. */
  readonly ttlMs?: number;
  /** The share of the ttl by which lifetimes vary. Default 0. */
  readonly jitter?: number;
  /** The time to close a client that was replaced. */
  readonly closeMs: number;
  /** A client that received nothing for this long gets a PING before it is handed out. */
  readonly idleCheckMs: number;
  readonly onHit?: (() => void) | undefined;
}

interface SharedEntry {
  readonly client: AnyClient;
  readonly handle: Promise<RedisHandle>;
  readonly openedAt: number;
  expiresAt: number;
  users: number;
  handedOutAt: number;
  onUnused?: () => void;
}

/**
 * One client that all callers share: callers that ask at once share one connect, whose failure is not kept. The client is
 * replaced without a gap when its ttl is over, and closed after its last user. It is behind `getRedis()`: each thread has
 * one (`ThreadClients`), and the main thread has two (`MainClients`: primary and subscriber).
 */
export class SharedClient {
  /** Counts the clients that were replaced. */
  rotations = 0;
  readonly #options: SharedClientOptions;
  readonly #life = new AbortController();
  #current: SharedEntry | undefined;
  /** The current handle, if it was found fresh in this loop turn: bytes arrive between turns only. */
  #checked: Promise<RedisHandle> | undefined;
  readonly #forget = (): void => void (this.#checked = undefined);
  #opening: Promise<SharedEntry> | undefined;
  #rotating: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #retiring: SharedEntry | undefined;

  constructor(options: SharedClientOptions) {
    this.#options = options;
  }

  get state(): ConnectionState {
    if (this.#closing) return "closed";
    return this.#current?.client.state ?? (this.#opening ? "connecting" : "disconnected");
  }

  get areSubscriptionsBack(): boolean {
    return this.#current?.client.areSubscriptionsBack ?? true;
  }

  get ageMs(): number {
    return this.#current ? monotonic() - this.#current.openedAt : 0;
  }

  /**
   * The current client's handle, checked: use it in this turn and the second after it. The first call connects, or rejects.
   * Later you get the handle also while Redis is away, and each command waits for its own deadline.
   * @throws REDTHREAD_CONNECT_FAILED, REDTHREAD_AUTH_FAILED, REDTHREAD_SHUTTING_DOWN, `signal.reason`
   */
  get(signal?: AbortSignal): Promise<RedisHandle> {
    const checked = this.#checked ?? this.#checkOnce();
    if (checked) {
      this.#options.onHit?.();
      return checked;
    }
    return this.#borrow(signal).then((entry) => {
      entry.handedOutAt = monotonic();
      release(entry);
      return entry.handle;
    });
  }

  /** The current handle, if it needs neither a PING nor a rotation; remembered until the end of this turn. */
  #checkOnce(): Promise<RedisHandle> | undefined {
    const entry = this.#current;
    const now = monotonic();
    if (!entry || now >= entry.expiresAt || !entry.client.isFresh(this.#options.idleCheckMs, now)) return undefined;
    entry.handedOutAt = now;
    setImmediate(this.#forget);
    return (this.#checked = entry.handle);
  }

  /** Runs `fn` with the current client, which stays open until `fn` is done, whatever rotations happen meanwhile. */
  async use<T>(fn: (redis: RedisHandle) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const entry = await this.#borrow(signal);
    try {
      return await fn(entry.client.redis);
    } finally {
      release(entry);
    }
  }

  /** Refuses new callers and closes every client within `ms`, also a client that is still connecting. Never rejects. */
  close(ms: number): Promise<void> {
    return (this.#closing ??= this.#close(ms));
  }

  async #borrow(signal?: AbortSignal): Promise<SharedEntry> {
    this.#life.signal.throwIfAborted();
    signal?.throwIfAborted();
    if (!this.#current) await abortable(this.#openOnce(), signal);
    const entry = this.#current!;
    entry.users++; // counted in the turn that chose it, before a rotation can retire it
    try {
      // A client that is away gets a new connection anyway.
      if (monotonic() >= entry.expiresAt && entry.client.isAlive()) this.#rotateOnce();
      await this.#check(entry.client, signal);
      return entry;
    } catch (error) {
      release(entry);
      throw error;
    }
  }

  async #check(client: AnyClient, signal?: AbortSignal): Promise<void> {
    if (client.isAlive() && !client.isFresh(this.#options.idleCheckMs)) await abortable(client.check(), signal);
    else this.#options.onHit?.();
    this.#life.signal.throwIfAborted();
    // A client that lost its connection seeks it by itself; only a client that has given up is connected here.
    if (client.state === "disconnected") await client.connect(signal);
  }

  #openOnce(): Promise<SharedEntry> {
    return (this.#opening ??= this.#open()
      .then((entry) => (this.#current = entry))
      .finally(() => (this.#opening = undefined)));
  }

  async #open(): Promise<SharedEntry> {
    const { open, ttlMs = Infinity, jitter = 0, closeMs } = this.#options;
    const client = await outside(open, this.#life.signal, this.#current === undefined);
    if (this.#life.signal.aborted) {
      await client.close(closeMs);
      throw this.#life.signal.reason;
    }
    const openedAt = monotonic();
    const expiresAt = openedAt + ttlMs * randomBetween(1 - jitter, 1);
    return { client, handle: Promise.resolve(client.redis), openedAt, expiresAt, users: 0, handedOutAt: 0 };
  }

  /** One rotation at a time, including the close of the old client: there are never more than two clients. */
  #rotateOnce(): void {
    this.#rotating ??= this.#rotate()
      .catch(() => {}) // logged by the attempt itself; the old client goes on and the next caller tries again
      .finally(() => (this.#rotating = undefined));
  }

  async #rotate(): Promise<void> {
    const startedAt = monotonic();
    const fresh = await this.#open();
    const old = this.#current;
    this.#current = fresh;
    this.#checked = undefined;
    this.rotations++;
    if (rotationChannel.hasSubscribers) {
      const { openedAt } = fresh;
      rotationChannel.publish({ durationMs: openedAt - startedAt, ageMs: openedAt - (old?.openedAt ?? openedAt) });
    }
    if (old) await this.#retire(old);
  }

  async #retire(entry: SharedEntry): Promise<void> {
    this.#retiring = entry;
    const closed = this.#life.signal;
    if (entry.users > 0) {
      const unused = new Promise<void>((resolve) => (entry.onUnused = resolve));
      await abortable(unused, closed).catch(() => {}); // close() ends the wait
    }
    const graceLeftMs = entry.handedOutAt === 0 ? 0 : entry.handedOutAt + GRACE_MS - monotonic();
    if (graceLeftMs > 0) await sleep(graceLeftMs, closed).catch(() => {}); // close() ends this wait, too
    await entry.client.close(this.#options.closeMs);
    this.#retiring = undefined;
  }

  async #close(ms: number): Promise<void> {
    this.#checked = undefined;
    this.#life.abort(new ShuttingDownError("the shared client is closed: this process or thread is shutting down"));
    await Promise.all([this.#current?.client.close(ms), this.#retiring?.client.close(ms)]);
    await this.#opening?.catch(() => {}); // its callers see the failure
    await this.#rotating;
  }
}

function release(entry: SharedEntry): void {
  if (--entry.users === 0) entry.onUnused?.();
}
