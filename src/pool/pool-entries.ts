import { deferred, waitAtMost } from "../core/waiting.js";

/** What generic-pool holds: a place for one client. */
export interface PoolEntry<T> {
  stage: "connecting" | "idle" | "checking" | "out" | "closing";
  client?: T;
  isFresh: boolean;
  readonly attempt: AbortController;
  idleSince: number;
  expiresAt: number;
  /** The first counts. */
  closeReason?: CloseReason;
  closed?: Promise<void>;
}

/**
 * Why a client was closed: too long idle, or wanted elsewhere; past its lifetime; left in a state beyond repair, or lent
 * while the credentials changed; found dead; never up, or dead on arrival; or the pool was closed.
 */
export type CloseReason = "idle" | "lifetime" | "dirty" | "dead" | "failed" | "shutdown";

/** Every slot with a socket, or about to have one: generic-pool forgets a client as soon as it starts to close it. */
export class PoolEntries<T> {
  readonly #entries = new Set<PoolEntry<T>>();
  #freed = deferred();

  [Symbol.iterator](): IterableIterator<PoolEntry<T>> {
    return this.#entries.values();
  }

  count(stage: PoolEntry<T>["stage"]): number {
    let count = 0;
    for (const entry of this.#entries) if (entry.stage === stage) count++;
    return count;
  }

  /** A new one, once there are fewer than `max`: generic-pool does not count what is being closed; the server does. */
  async add(max: number): Promise<PoolEntry<T>> {
    const entry: PoolEntry<T> = {
      stage: "connecting",
      isFresh: true,
      attempt: new AbortController(),
      idleSince: 0,
      expiresAt: 0,
    };
    while (this.#entries.size >= max) await this.#freed.promise;
    this.#entries.add(entry);
    return entry;
  }

  delete(entry: PoolEntry<T>): void {
    this.#entries.delete(entry);
    this.#freed.resolve();
    this.#freed = deferred();
  }

  /** Resolves when none is left, or after `ms`. */
  async emptied(ms: number): Promise<void> {
    const empty = async (): Promise<void> => {
      while (this.#entries.size > 0) await this.#freed.promise;
    };
    await waitAtMost(ms, empty());
  }
}
