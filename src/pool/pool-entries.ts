import { deferred } from "../core/deferred.js";
import { within } from "../core/time.js";

/** What generic-pool holds: a place for one client. */
export interface Slot<T> {
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
export class Slots<T> {
  readonly #slots = new Set<Slot<T>>();
  #freed = deferred();

  [Symbol.iterator](): IterableIterator<Slot<T>> {
    return this.#slots.values();
  }

  count(stage: Slot<T>["stage"]): number {
    let count = 0;
    for (const slot of this.#slots) if (slot.stage === stage) count++;
    return count;
  }

  /** A new one, once there are fewer than `max`: generic-pool does not count what is being closed; the server does. */
  async add(max: number): Promise<Slot<T>> {
    const slot: Slot<T> = {
      stage: "connecting",
      isFresh: true,
      attempt: new AbortController(),
      idleSince: 0,
      expiresAt: 0,
    };
    while (this.#slots.size >= max) await this.#freed.promise;
    this.#slots.add(slot);
    return slot;
  }

  delete(slot: Slot<T>): void {
    this.#slots.delete(slot);
    this.#freed.resolve();
    this.#freed = deferred();
  }

  /** Resolves when none is left, or after `ms`. */
  async emptied(ms: number): Promise<void> {
    const empty = async (): Promise<void> => {
      while (this.#slots.size > 0) await this.#freed.promise;
    };
    await within(empty(), ms, () => new Error("not empty yet")).catch(() => undefined);
  }
}
