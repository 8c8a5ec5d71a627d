import type { Item } from "../work.js";

/** One way to have tasks done by threads, open. */
export interface Contender {
  /** Has all of `items` done, so many at once; resolves after the last. */
  readonly drive: (items: Iterable<Item>, atOnce: number) => Promise<void>;
  readonly close: () => Promise<unknown>;
}

/** One way before it is opened: whoever takes no part starts no threads beside those who do. */
export interface Entrant {
  readonly name: string;
  readonly open: () => Contender | Promise<Contender>;
}

export async function openAll<E extends Entrant>(entrants: readonly E[]): Promise<(E & Contender)[]> {
  return Promise.all(entrants.map(async (entrant) => ({ ...entrant, ...(await entrant.open()) })));
}

/** For what does one task per call: callers that take the next item as soon as theirs is done. */
export function byCallers(run: (item: Item) => Promise<unknown>): Contender["drive"] {
  return async (items, atOnce) => {
    const shared = items[Symbol.iterator]();
    const caller = async (): Promise<void> => {
      for (let next = shared.next(); !next.done; next = shared.next()) await run(next.value);
    };
    await Promise.all(Array.from({ length: atOnce }, caller));
  };
}
